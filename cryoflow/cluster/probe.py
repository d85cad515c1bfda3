"""What an image is asked from within: stages need this, and only the image itself can tell.

Not imported but handed to the image's Python as text, so that an image of any age can be asked: it uses the standard
library alone, and what it answers is one line of JSON, the last one. Its argument is JSON as well: folders to read, to
write, and the server's address.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
import ssl
import sys
import tempfile
import urllib.request
from pathlib import Path


def main(asked: dict[str, list[str]]) -> dict[str, object]:
    """Run all checks; an exception is a result too."""
    versions = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in importlib.metadata.distributions()}
    ours = "cryoflow-em" in versions or "topaz-em" not in versions
    modules = ("cryoflow", "flows", "prefect", "keras", "tensorflow") if ours else ("torch", "topaz")
    return {
        "python": platform.python_version(),
        "user": os.getuid(),
        "versions": versions,
        "imports": {name: problem_of(lambda name=name: importlib.import_module(name)) for name in modules},
        "gpus": gpus(),
        "certificates": certificates(),
        "read": {folder: problem_of(lambda folder=folder: os.listdir(folder)) for folder in asked["read"]},
        "read_only": {folder: is_read_only(folder) for folder in asked["read"]},
        "write": {folder: problem_of(lambda folder=folder: write(folder)) for folder in asked["write"]},
        "server": {url: problem_of(lambda url=url: visit(url)) for url in asked["server"]},
    }


def problem_of(action: object) -> str:
    """Return the exception of a call as text, empty where there is none."""
    try:
        action()  # type: ignore[operator]
    except BaseException as error:  # an import may end the interpreter
        return f"{type(error).__name__}: {error}"
    return ""


def gpus() -> list[str]:
    """Return the names of the GPUs that the network would use."""
    try:
        if "tensorflow" in sys.modules:
            return [device.name for device in sys.modules["tensorflow"].config.list_physical_devices("GPU")]
        cuda = sys.modules["torch"].cuda
        return [cuda.get_device_name(i) for i in range(cuda.device_count())]
    except Exception:  # asked only to be told
        return []


def certificates() -> int:
    """Return how many authorities a TLS connection trusts, in the file and the folder that OpenSSL reads."""
    try:
        paths = ssl.get_default_verify_paths()
        in_folder = len(list(Path(paths.capath).glob("*.0"))) if paths.capath else 0
        return max(ssl.create_default_context().cert_store_stats()["x509_ca"], in_folder)
    except OSError:
        return 0  # SSL_CERT_FILE names what is not there


def is_read_only(folder: str) -> bool:
    """Return whether the mount is read-only; nothing is written to folders of projects."""
    try:
        return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def write(folder: str) -> None:
    """Write a file and remove it."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"cryoflow doctor")


def visit(url: str) -> None:
    """Read a page of a server."""
    with urllib.request.urlopen(url, timeout=5):  # noqa: S310  # http or https, as who asks has checked
        pass


if __name__ == "__main__":
    print("\n" + json.dumps(main(json.loads(sys.argv[1]))), flush=True)
