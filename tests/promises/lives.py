"""Work that is killed and begun again, several lives in one process tree: TensorFlow is imported once, then forked.

Run by test_promise_12_long_work.py: `lives.py training FOLDER` and `lives.py flow FOLDER ROOT`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from cryoflow.system.tensorflow_import import load_tensorflow


def die(*_: object) -> None:
    """As the kernel ends a process that takes too much memory: nothing is cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


def life(work: Callable[[], object]) -> int:
    """Do some work in a fork of this process; its exit status, or -9."""
    pid = os.fork()
    if pid == 0:
        status = 9
        try:
            work()
            status = 0
        finally:
            sys.stdout.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die_when(there: Callable[[], bool]) -> None:
    """End this process as soon as something is there on the disk."""

    def watch() -> None:
        while not there():
            time.sleep(0.005)
        die()

    threading.Thread(target=watch, daemon=True).start()


# ---- training -----------------------------------------------------------------------------------------------------

KILLS: tuple[tuple[int, str], ...] = ((3, ""), (14, "file.written"), (20, ""))
"""After which step, and at which named point of a write after it: 7 steps are an epoch. The second is in the middle of
the checkpoint of epoch 2, which is lost by that; the third life does it again.
"""


def training(folder: Path) -> None:
    """An uninterrupted training, and one that is killed again and again."""
    from promise_tools import make_entry

    import cryoflow.unpicker.training_loop  # noqa: F401  # imports Keras, before the forks
    from cryoflow.preparation.two_channel import TwoChannelPreprocessing
    from cryoflow.storage import files
    from cryoflow.unpicker.labeled import LabeledSet
    from cryoflow.unpicker.prepared_split import Progress
    from cryoflow.unpicker.train import train
    from cryoflow.unpicker.train_options import TrainOptions

    entry = make_entry(folder, n=6, labels=True)
    options = TrainOptions(
        preprocessing=TwoChannelPreprocessing(pixels_per_diameter=12, margin_px=1),
        widths=(8,),
        blocks=(1,),
        epochs=3,
        patience=9,
        batch=16,
        least_steps=7,
        validation=0.34,
        test=0.0,
        workers=1,
        cache_dir=folder / "cache",
    )

    def work(model: str, step: int = 10**9, point: str = "") -> None:
        done: list[int] = []

        def on_progress(p: Progress) -> None:
            if p.stage != "training":
                return
            done.append(p.done)
            if p.done >= step and not point:
                die()
            elif p.done >= step:
                files.on_fault_point = lambda name: die() if name == point else None

        try:
            train(LabeledSet.from_picks([entry]), folder / model, options, on_progress=on_progress)
        finally:
            print("STEPS", model, *done, flush=True)

    print("LIFE", life(lambda: work("plain")), flush=True)
    for step, point in KILLS:
        print("LIFE", life(lambda step=step, point=point: work("killed", step, point)), flush=True)  # type: ignore[misc]
    print("LIFE", life(lambda: work("killed")), flush=True)


# ---- the whole flow -----------------------------------------------------------------------------------------------

WAITED_FOR = (
    "out/database/.jobs/*.json",
    "out/unpicker/checkpoints/state.npz",
    "out/work/*.json",
)
"""What is on the disk when the process is killed: in the middle of ingest, of training and of un-picking."""


def flow(folder: Path, root: Path) -> None:
    """`cryoflow run`, killed in each of its stages, then let be."""
    from cryoflow.cli.main import launch

    line = [
        "run",
        str(root),
        "-o",
        str(folder / "out"),
        "--epochs",
        "2",
        "--chunk-micrographs",
        "1",
        "--picker",
        "topaz",
    ]

    def work(pattern: str) -> None:
        if pattern:
            die_when(lambda: bool(seen(folder, pattern, hidden="/." in pattern)))
        code = launch(line)
        assert code == 0, code

    for pattern in (*WAITED_FOR, ""):
        before = {p: p.stat().st_mtime_ns for p in finished(folder)}
        print("LIFE", life(lambda pattern=pattern: work(pattern)), flush=True)  # type: ignore[misc]
        for path, time_ns in before.items():
            if not path.exists() or path.stat().st_mtime_ns != time_ns:
                print("AGAIN", path, flush=True)
        print("FINISHED", len(before), flush=True)


def finished(folder: Path) -> list[Path]:
    """What finished pieces of work wrote last: entries that ingest remembers, training sets, epochs, shards."""
    memory = "".join(path.read_text() for path in seen(folder, "out/database/.jobs/*.json", hidden=True))
    entries = seen(folder, "out/database/*/Particles/*/manifest.json")
    done = [p for p in entries if f'"{p.parents[2].name}/{p.parent.name}"' in memory]
    patterns = ["out/training/*/manifest.tsv", "out/unpicker/bundle.json", "out/work/*.json"]
    if seen(folder, "out/unpicker/checkpoints/state.npz"):
        patterns.append("out/unpicker/checkpoints/epoch-001/bundle.json")
    return done + [path for pattern in patterns for path in seen(folder, pattern)]


def seen(folder: Path, pattern: str, *, hidden: bool = False) -> list[Path]:
    """Files of a pattern, without those that are being made under a hidden name."""
    return sorted(path for path in folder.glob(pattern) if hidden or "/." not in str(path))


if __name__ == "__main__":
    load_tensorflow()
    if sys.argv[1] == "training":
        training(Path(sys.argv[2]))
    else:
        flow(Path(sys.argv[2]), Path(sys.argv[3]))
