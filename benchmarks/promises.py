"""Attack the promises for a bounded time, and print the table of docs/promises.md.

    python benchmarks/promises.py --seconds 60

Each attack is repeated, in a seeded random order, until its share of the time is over and it was tried `--tries` times.
The exit code is 1 if one got through. `tests/promises` has the full attacks; this command counts.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "promises"), str(TESTS / "database")]

import killed  # noqa: E402
import promise_tools as tools  # noqa: E402
import test_database_verify as rearrange  # noqa: E402
import test_promise_05_bad_files as bad  # noqa: E402

from cryoflow.database import Database, verify  # noqa: E402
from cryoflow.errors import CryoflowError  # noqa: E402
from cryoflow.ingest import plan_jobs  # noqa: E402, F401 (children are forked: import it before)

Attack = Callable[[Path, random.Random], Iterator[bool]]
"""Gives, for each attack that was tried, whether the promise held."""


def kills(folder: Path, rng: random.Random) -> Iterator[bool]:
    """A writer is killed at one of its steps, then the same is done again: the same bytes as without the kill."""
    old, new = tools.make_entry(folder / "p"), tools.make_entry(folder / "p", seed=1, n=4)
    other = tools.make_entry(folder / "p", "P2", job="J7")
    start = folder / "start"
    Database(start).add(old)

    def change(root: Path) -> None:
        for pickset in (new, other):
            Database(root).add(pickset)
        Database(root).mark("P1/Homo_J5", "stale", "x")

    whole = folder / "whole"
    shutil.copytree(start, whole, symlinks=True)
    steps = killed.points_of(lambda: change(whole), folder / "steps")
    expected = tools.tree(whole, ignore=tools.has_times)
    while True:
        root = folder / "killed"
        shutil.copytree(start, root, symlinks=True)
        number = rng.randrange(len(steps))

        def killed_once(root: Path = root, number: int = number) -> None:
            with killed.fault_hook(killed.at(number, killed.die)):
                change(root)

        killed.in_child(killed_once)
        sound = not [f for f in verify(root) if f.severity == "damage" and f.path.parent.name != "Micrographs"]
        again = killed.in_child(lambda root=root: change(root)) == 0
        yield sound and again and tools.tree(root, ignore=tools.has_times) == expected and not tools.leftovers(root)
        shutil.rmtree(root)


def _small(folder: Path) -> Path:
    root = folder / "DB"
    for project in ("P1", "P2"):
        for job in ("J51", "J60"):
            Database(root).add(tools.make_entry(folder / "p", project, job=job, seed=ord(job[1])))
    Database(root).mark("P1/Homo_J60", "deleted", "gone")
    return root


def flips(folder: Path, rng: random.Random) -> Iterator[bool]:
    """One bit of one file of a database is flipped: `verify` finds it."""
    root = _small(folder)
    files = sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink())
    while True:
        path = rng.choice(files)
        sound = path.read_bytes()
        damaged = bytearray(sound)
        damaged[rng.randrange(len(sound))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(damaged))
        yield _is_found(root)
        path.write_bytes(sound)


def _is_found(root: Path) -> bool:
    try:
        return any(f.severity == "damage" for f in verify(root))
    except CryoflowError:  # a version that a flipped bit made newer
        return True


def rearrangements(folder: Path, rng: random.Random) -> Iterator[bool]:
    """Whole entries, projects, marks and lists are exchanged, copied or deleted: `verify` finds it."""
    whole = _small(folder)
    root = folder / "other"
    while True:
        for change in rng.sample(list(rearrange.REARRANGEMENTS.values()), len(rearrange.REARRANGEMENTS)):
            shutil.copytree(whole, root, symlinks=True)
            change(root)
            yield _is_found(root)
            shutil.rmtree(root)


def swaps(folder: Path, rng: random.Random) -> Iterator[bool]:
    """A folder is swapped for a link at one step of a write: nothing is written where the link leads."""
    old, new = tools.make_entry(folder / "p"), tools.make_entry(folder / "p", seed=1, n=4)
    outside = folder / "outside"
    outside.mkdir()
    Database(folder / "first").add(old)
    steps = killed.points_of(lambda: Database(folder / "first").add(new) and None, folder / "steps")
    while True:
        root = folder / "DB"
        Database(root).add(old)
        place = root / rng.choice(("P1", "P1/Particles", "P1/Micrographs"))
        left = [rng.randrange(len(steps))]

        def swap(_: str, place: Path = place, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == -1:
                place.rename(place.with_name(place.name + "-away"))
                place.symlink_to(outside)

        with killed.fault_hook(swap):
            try:
                Database(root).add(new)
            except (CryoflowError, FileNotFoundError):
                pass
        yield not list(outside.iterdir())
        shutil.rmtree(root)


def mutations(folder: Path, rng: random.Random) -> Iterator[bool]:
    """Random bytes in a sound file, through a reader of any kind: a result or one clear error."""
    readers = bad.readers_of_bad_files()
    while True:
        seed = rng.choice(bad.SEEDS)
        at = rng.randrange(len(seed) + 1)
        noise = rng.randbytes(rng.randrange(60))
        path = folder / f"a{rng.choice(bad.ENDINGS)}"
        path.write_bytes(seed[:at] + noise + seed[at + rng.choice((0, len(noise))) :])
        name = rng.choice(sorted(readers))
        yield bad.escaped({name: readers[name]}, path) == []
        path.unlink()


def bombs(folder: Path, _: random.Random) -> Iterator[bool]:
    """A small file that asks for much, through a reader: within the budget of time and memory of its size."""
    for which in ("registry", "readers"):
        place = folder / which
        place.mkdir()
        argv = [sys.executable, "-W", "ignore", str(TESTS / "promises" / "bombs.py"), which, str(place)]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout
        try:
            for line in process.stdout:
                if line.startswith(("HELD", "FAILED")):
                    yield line.startswith("HELD")
        finally:
            process.kill()
            process.wait()


def disks(folder: Path, rng: random.Random) -> Iterator[bool]:
    """A disk fails at one step of a write: one clear error, and the second run gives the same bytes."""
    script = str(TESTS / "promises" / "disks.py")
    for number in itertools.count():
        for kind in ("full", "shrunk", "read-only", "journal aborted"):
            place = folder / f"{kind} {number}"
            place.mkdir()
            argv = ["unshare", "--mount", sys.executable, "-W", "ignore", script, kind, str(place)]
            done = subprocess.run(
                [*argv, str(rng.randrange(25)), "25"], capture_output=True, text=True, check=False, timeout=600
            )
            rows = [line.split() for line in done.stdout.splitlines() if line.startswith("RESULT")]
            if done.returncode or not rows:
                return  # mounting needs root
            for row in rows:
                yield row[2] in ("0", "1") and row[3:] == ["same", "clear"]


def killed_runs(folder: Path, rng: random.Random) -> Iterator[bool]:
    """`cryoflow run` is killed at random moments, until it ends: what was done stays, and the result is the same."""
    import flows  # noqa: F401  # sets Prefect's environment before it is imported

    # isort: split
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    root = tools.simulated_project(folder)
    argv = [sys.executable, "-u", str(TESTS / "promises" / "lives.py"), "random", str(folder), str(root)]
    argv += [str(10**6), str(10**6), str(rng.randrange(10**6))]
    with prefect_test_harness(server_startup_timeout=120):
        env = {**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value())}
        with subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env, start_new_session=True
        ) as lives:
            assert lives.stdout is not None
            try:
                for line in lives.stdout:
                    if line.startswith(("KILLED", "ENDED")):
                        print(line, end="", file=sys.stderr, flush=True)  # when it was killed, what was lost
                        yield " same" in line
                yield False  # it never ends by itself
            finally:
                os.killpg(lives.pid, signal.SIGKILL)


ATTACKS: dict[str, tuple[Attack, str]] = {
    "process killed at a step of a write": (kills, "second run gives the same bytes"),
    "bit flipped in a file of a database": (flips, "found by verify"),
    "entry, project, mark or list exchanged, copied, deleted": (rearrangements, "found by verify"),
    "disk full, read-only or without its journal at a step of a write": (disks, "one clear error, then the same bytes"),
    "`cryoflow run` killed at a random moment, or at its end after that": (
        killed_runs,
        "what was done stays; at its end the same result",
    ),
    "folder swapped for a link during a write": (swaps, "nothing written outside"),
    "random bytes in a sound file, through a reader": (mutations, "a result or one clear error"),
    "small file that asks for much, through a reader": (bombs, "within the budget of its size"),
}


def main() -> int:
    """Run all attacks; print a table in Markdown."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=60.0, help="time for each attack")
    arguments.add_argument("--tries", type=int, default=50, help="least number of tries of each attack")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--only", choices=sorted(ATTACKS), help="one attack alone")
    options = arguments.parse_args()
    failed = False
    print("| attack | tried | held | what holds |\n|---|---|---|---|")
    for name, (attack, promise) in ATTACKS.items() if not options.only else [(options.only, ATTACKS[options.only])]:
        with tempfile.TemporaryDirectory() as folder:
            end = time.monotonic() + options.seconds
            tried = held = 0
            for is_held in attack(Path(folder), random.Random(options.seed)):
                tried += 1
                held += is_held
                if time.monotonic() > end and tried >= options.tries:
                    break
        failed |= held < tried
        print(f"| {name} | {tried} | {held} | {promise} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["PYTHONPATH"] = str(TESTS.parent)
    sys.exit(main())
