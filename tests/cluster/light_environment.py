"""Make `.venv` in this folder with the packages of the environment that runs this, for any account to use: in seconds.

`make env` makes the same in minutes; the tests' own environment was made by it.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path


def link_or_copy(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # on another file system
        shutil.copy2(source, target)
    return target


def for_any_account(packages: Path, own: Path) -> Path:
    """Return a folder of packages that other accounts can enter: this one, or links to its files."""
    if all(folder.stat().st_mode & 0o001 for folder in (packages, *packages.parents)):
        return packages
    shutil.copytree(packages, own, symlinks=True, copy_function=link_or_copy)
    return own


here, programs = Path.cwd(), Path(sys.executable).parent
python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
found = next(path for path in (Path("/usr/bin", python), Path("/usr/local/bin", python)) if path.exists())
subprocess.run([found, "-m", "venv", "--without-pip", ".venv"], check=True)
packages = next((here / ".venv" / "lib").glob("python*/site-packages"))
shared = for_any_account(Path(sysconfig.get_path("purelib")), here / ".packages")
(packages / "of_the_tests.pth").write_text(f"{here}\n{shared}\n")
for name in ("cryoflow", "prefect"):
    program = here / ".venv" / "bin" / name
    code = (programs / name).read_text().partition("\n")[2]
    program.write_text(f"#!{here}/.venv/bin/python\n{code}")
    program.chmod(0o755)
# redis takes it where Python is older than 3.11.3, as Debian's is; `make env` installs it.
(packages / "async_timeout.py").write_text("from asyncio import timeout\n")
