"""Work that is killed and begun again, several lives in one process tree: TensorFlow is imported once, then forked.

Run by test_promise_12_long_work.py: `lives.py training FOLDER` and `lives.py flow FOLDER ROOT`; by it and by
benchmarks/promises.py: `lives.py random FOLDER ROOT KILLS SECONDS SEED`.
"""

from __future__ import annotations

import os
import random
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
    from cryoflow.storage import fault_points
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
                fault_points.on_fault_point = lambda name: die() if name == point else None

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


def run_line(root: Path, out: Path) -> list[str]:
    """Return a small run of all stages."""
    return ["run", str(root), "-o", str(out), "--epochs", "2", "--chunk-micrographs", "1", "--picker", "topaz"]


def flow(folder: Path, root: Path) -> None:
    """`cryoflow run`, killed in each of its stages, then let be; a line `PAST ...` for each access past the door."""
    import doors

    from cryoflow.cli.main import launch

    line = run_line(root, folder / "out")

    def work(pattern: str) -> None:
        doors.watch(root.parent, folder / "out", lambda line: print("PAST", line, flush=True))
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


# ---- kills at random moments --------------------------------------------------------------------------------------


def at_random(folder: Path, root: Path, kills: int, seconds: float, seed: int) -> None:
    """`cryoflow run`, killed at random moments over its whole length, until it ends by itself; then from the start.

    A line `KILLED SECONDS same|LOST ...` for each kill says whether all that was finished before is still there and the
    database is sound; a line `ENDED same|DIFFERENT ...` for each finished run compares it with one that was not killed.
    """
    import flows.pipeline  # noqa: F401  # imports Prefect, before the forks
    from cryoflow.cli.main import launch

    rng = random.Random(seed)
    begun = time.monotonic()
    assert life(lambda: launch(run_line(root, folder / "plain/out"))) == 0
    whole_s = time.monotonic() - begun
    n_killed = number = 0
    while n_killed < kills and time.monotonic() - begun < seconds + whole_s:
        number += 1
        place = folder / f"killed {number}"
        is_over = False
        while not is_over:
            before = {path: path.read_bytes() for path in finished(place)}
            # Half of the kills come early, where a run looks for what an earlier one has done.
            wait_s = rng.uniform(0, whole_s * rng.choice((0.2, 1.0)))
            is_last = n_killed >= kills or time.monotonic() - begun > seconds + whole_s
            status = life_of(lambda place=place: launch(run_line(root, place / "out")), None if is_last else wait_s)
            is_over = status == 0
            lost = [str(path) for path, content in before.items() if not path.exists() or path.read_bytes() != content]
            if not is_over:
                assert status == -signal.SIGKILL, status
                n_killed += 1
                lost += unsound(place / "out/database")
                print("KILLED", round(wait_s / whole_s, 3), "LOST" if lost else "same", *lost[:3], flush=True)
        other = differences(folder / "plain/out", place / "out")
        print("ENDED", "DIFFERENT" if other else "same", *other[:3], flush=True)


def life_of(work: Callable[[], object], wait_s: float | None) -> int:
    """Do some work in a fork of this process, and kill it after a while; its exit status, or -9."""
    pid = os.fork()
    if pid == 0:
        status = 9
        try:
            status = int(work() or 0)  # type: ignore[call-overload]
        finally:
            sys.stdout.flush()
            os._exit(status)
    end = None if wait_s is None else time.monotonic() + wait_s
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if end is not None and time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            end = None
        time.sleep(0.02)


def unsound(root: Path) -> list[str]:
    """Return the damage in a database, and entries that do not load."""
    from cryoflow.database import Database, verify

    database = Database(root)
    if not database.exists:
        return []
    found = [
        f"{f.path}: {f.what}" for f in verify(database) if f.severity == "damage" and "/Micrographs/" not in str(f)
    ]
    return found + [e.name for e in database.entries() if len(database.load(e)) != e.n_picks]


def differences(plain: Path, killed: Path) -> list[str]:
    """Return what a run that was killed holds otherwise than one that was not.

    Weights are equal to rounding, since a training that goes on adds its numbers in another order; so picks are equal
    but for those whose probability lies at the threshold.
    """
    import numpy as np
    from promise_tools import has_times, leftovers, tree

    from cryoflow.database import Database, verify
    from cryoflow.unpicker.bundle import ModelBundle

    def entries(out: Path) -> dict[str, str]:
        whole = tree(out / "database", ignore=has_times)
        return {name: digest for name, digest in whole.items() if "Unpicked" not in name and "entries.json" not in name}

    one, other = entries(plain), entries(killed)
    found = [name for name in {*one, *other} if one.get(name) != other.get(name)]
    models = [ModelBundle.load(out / "unpicker") for out in (plain, killed)]
    found += [
        f"weights {name}"
        for name, value in models[0].weights.items()
        if not np.allclose(models[1].weights[name], value, rtol=1e-3, atol=1e-4)
    ]
    kept = [{e.name: e.n_picks or 0 for e in Database(out / "database")} for out in (plain, killed)]
    if kept[0].keys() != kept[1].keys():
        found.append(f"entries {kept}")
    found += [f"{n}: {kept[0][n]} and {kept[1][n]} picks" for n in kept[0] if abs(kept[0][n] - kept[1].get(n, 0)) > 2]
    return found + [str(f) for f in verify(killed / "database")] + leftovers(killed)


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
    elif sys.argv[1] == "random":
        import tensorflow as tf

        # Two threads add numbers in another order each time, and a training enlarges that.
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        kills, seconds, seed = map(int, sys.argv[4:])
        at_random(Path(sys.argv[2]), Path(sys.argv[3]), kills, seconds, seed)
    else:
        flow(Path(sys.argv[2]), Path(sys.argv[3]))
