"""The project's CPU image for tests: built once for each state of its sources, shared by all test processes.

`python tests/cluster/cpu_image.py` builds it ahead of the tests, whose time limit it could exceed, and prints its path.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BASE_MAKER = ROOT.parent / "shared" / "testbed" / "docker-engine"
SOURCES = ("cryoflow", "flows", "containers", "pyproject.toml", "requirements.lock", "README.md", "LICENSE")
"""Everything that containers/build copies into the image."""
KEPT = Path("/var/tmp") / f"cryoflow-test-images-{os.getuid()}"


def fingerprint() -> str:
    """Return the fingerprint of the image's sources: the names and contents of the files that Git tracks or would."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *SOURCES],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    total = hashlib.sha256()
    for name in sorted(set(names.split("\0")) - {""}):
        if (file := ROOT / name).is_file():
            total.update(f"{name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()[:16]


def cpu_image(folder: Path = KEPT) -> Path:
    """Return the image of the present sources; where there is none, build it or wait for its builder."""
    folder.mkdir(exist_ok=True, mode=0o700)
    image = folder / f"cpu-{fingerprint()}.sif"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not image.exists():
            for old in folder.glob("cpu-*.sif"):
                old.unlink()  # a job that runs in one keeps the file open
            build(image)
    return image


def build(image: Path) -> None:
    """Build the image with the project's own script, from a base that needs no registry."""
    work = Path(tempfile.mkdtemp(prefix="cryoflow-image-"))
    try:
        base = work / "base"
        subprocess.run([str(BASE_MAKER), "base", str(base)], check=True, capture_output=True)
        for device in (base / "dev").iterdir():
            if device.is_symlink() or not device.is_dir():
                device.unlink()  # device files cannot be made in a build without privileges
        script = [str(ROOT / "containers" / "build"), "--apptainer", "--output", str(work), "--base", str(base), "cpu"]
        quick = {"APPTAINER_MKSQUASHFS_ARGS": "-comp gzip -Xcompression-level 1"}  # quicker to make, and larger
        with (image.parent / "build.log").open("w") as log:
            subprocess.run(script, check=True, env={**os.environ, **quick}, stdout=log, stderr=log)
        shutil.move(work / "cryoflow-cpu.sif", image.with_suffix(".part"))
        image.with_suffix(".part").replace(image)
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    print(cpu_image() if BASE_MAKER.exists() else "no testbed: no image is built")
