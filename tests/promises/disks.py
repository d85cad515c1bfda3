"""Disks that fail in the middle of a write, by the kernel: a program that runs in a mount namespace of its own.

    unshare --mount python disks.py KIND FOLDER [FIRST STEP]

For each fault point of some work (every STEP-th from FIRST), a new file system is made, and the disk fails there. One
line `RESULT point status state` is printed for each: the exit status of the work (0 done, 1 one clear error), and
`same` if the disk, once it is mended, holds whole entries only and the work done again gives the same bytes as without
failure.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[1]))

from killed import at, fault_hook, in_child, points_of
from promise_tools import DIAMETER_A, has_times, leftovers, make_entry, tree

from cryoflow.database import Database, verify
from cryoflow.pickers.training_sets.export import export
from cryoflow.picks import PickSet

SIZE_KB = 4096
NOBODY = 65534


def shell(*argv: str | Path) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{argv}: {done.stderr.strip()}")


class Disk:
    """A small file system: made, broken at some moment, mended."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.image, self.place = kind, folder / "image", folder / "disk"
        self.place.mkdir(exist_ok=True)

    def make(self) -> None:
        """Make it and mount it."""
        if self.kind in ("read-only", "journal aborted"):
            self.image.unlink(missing_ok=True)
            self.image.touch()
            os.truncate(self.image, 4 * SIZE_KB << 10)
            shell("mkfs.ext4", "-q", "-F", self.image)
            shell("mount", "-o", "loop", self.image, self.place)
        elif self.kind == "quota":
            options = f"size={4 * SIZE_KB}k,usrquota,usrquota_block_hardlimit={SIZE_KB}k"
            shell("mount", "-t", "tmpfs", "-o", options, "none", self.place)
        else:
            shell("mount", "-t", "tmpfs", "-o", f"size={SIZE_KB}k", "none", self.place)
        (self.place / "work").mkdir()
        if self.kind == "quota":
            os.chown(self.place / "work", NOBODY, NOBODY)

    def fail(self) -> None:
        """Let every later change fail."""
        if self.kind == "read-only":
            # Refused by the kernel while a file is open for writing: then the next fault point does it.
            subprocess.run(["mount", "-o", "remount,ro", str(self.place)], capture_output=True, check=False)
        elif self.kind == "journal aborted":
            subprocess.run(["mount", "-o", "remount,abort", str(self.place)], capture_output=True, check=False)
        elif self.kind == "shrunk":
            used = os.statvfs(self.place)
            used_kb = (used.f_blocks - used.f_bfree) * used.f_frsize >> 10
            shell("mount", "-o", f"remount,size={used_kb}k,nr_inodes={used.f_files - used.f_ffree}", self.place)
        else:
            self._fill()

    def _fill(self) -> None:
        ballast = os.open(self.place / "work" / ".ballast", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            for n_bytes in (1 << 16, 1 << 12, 1):
                try:
                    while True:
                        os.write(ballast, bytes(n_bytes))
                except OSError:
                    continue
        finally:
            os.close(ballast)

    def mend(self) -> None:
        """Make it sound again, with what was written."""
        if self.image.exists():
            shell("umount", self.place)
            subprocess.run(["e2fsck", "-p", str(self.image)], capture_output=True, check=False)
            shell("mount", "-o", "loop", self.image, self.place)
        elif self.kind == "shrunk":
            shell("mount", "-o", f"remount,size={4 * SIZE_KB}k,nr_inodes=0", self.place)
        else:
            (self.place / "work" / ".ballast").unlink(missing_ok=True)

    def remove(self) -> None:
        """Unmount it."""
        shell("umount", self.place)


def make_work(folder: Path) -> tuple[Callable[[Path], object], Callable[[Path], object]]:
    """Return what is on the disk before, and the work that is disturbed."""
    old, new = make_entry(folder / "p"), make_entry(folder / "p", seed=1, n=4)
    other = make_entry(folder / "p", "P2", job="J7")

    def before(root: Path) -> None:
        Database(root / "DB").add(old)

    def work(root: Path) -> None:
        for pickset in (new, other):
            Database(root / "DB").add(pickset)
        Database(root / "DB").mark("P1/Homo_J5", "stale", "x")
        export("topaz", [PickSet.build(other.provenance, other.micrographs, other.picks)], root / "set",
               diameter_A=DIAMETER_A, force=True)  # fmt: skip

    return before, work


def is_whole(root: Path) -> bool:
    """Return whether what stands on the disk is complete: entries load, and nothing is damaged but for new links."""
    database = Database(root / "DB")
    entries = database.entries()
    whole = all(len(database.load(entry)) == entry.n_picks for entry in entries)
    damage = [f for f in verify(database) if f.severity == "damage" and f.path.parent.name != "Micrographs"]
    return bool(entries) and whole and not damage


def shown(root: Path) -> dict[str, str]:
    return tree(root, ignore=lambda name: has_times(name.removeprefix("DB/")) or name.startswith("set/"))


def main(kind: str, folder: Path, first: int, step: int) -> int:
    """Fail at each fault point; print what became of it."""
    before, work = make_work(folder)
    plain = folder / "plain"
    assert in_child(lambda: before(plain)) == 0
    points = points_of(lambda: work(plain), folder / "points")
    expected = shown(plain)
    disk = Disk(kind, folder)
    root = disk.place / "work"
    for number in range(first, len(points), step):
        disk.make()

        def user() -> None:
            if kind == "quota":
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)

        def disturbed(number: int = number) -> None:
            user()
            with fault_hook(at(number, disk.fail)):
                work(root)

        assert in_child(lambda: (user(), before(root))) == 0
        status = in_child(disturbed, stderr=folder / "said")
        text = (folder / "said").read_text()
        disk.mend()
        state = "whole" if is_whole(root) else "damaged"
        if in_child(lambda: (user(), work(root))) == 0 and state == "whole":
            state = "same" if shown(root) == expected and not leftovers(root) else "different"
        clear = "clear" if status == 0 or "could not be written" in text else "unclear"
        print("RESULT", points[number], status, state, clear, flush=True)
        if status not in (0, 1) or state != "same":
            print(text[-3000:], file=sys.stderr)
        disk.remove()
    return 0


if __name__ == "__main__":
    kind, folder, *numbers = sys.argv[1:]
    first, step = map(int, numbers or (0, 1))
    sys.exit(main(kind, Path(folder), first, step))
