"""Check what a machine and an installation need for cryoflow to work.

A check yields `ok`, `warning` (something is slower or not available), `missing` (a part that only some uses need) or
`failed` (cryoflow cannot work as it should), with what was found and what to do. To add a check, write a generator of
`CheckResult` and name it in `CHECKS`.
"""

from __future__ import annotations

import base64
import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cryoflow
from cryoflow.errors import CryoflowError
from cryoflow.settings.load import FILE_NAME, LoadedSettings, Settings

Status = Literal["ok", "warning", "missing", "failed"]
OTHER_VARIABLES = ("CRYOFLOW_CONFIG", "CRYOFLOW_DEBUG", "CRYOFLOW_SCRATCH", "CRYOFLOW_SLURM_POLL_SECONDS")


@dataclass(frozen=True)
class CheckResult:
    """Result of one check."""

    check: str
    status: Status
    found: str
    hint: str = ""


def _python(_loaded: LoadedSettings) -> Iterator[CheckResult]:
    found = f"cryoflow {cryoflow.__version__}, Python {platform.python_version()}, {platform.platform()}"
    supported = (3, 11) <= sys.version_info < (3, 14)
    yield CheckResult("python", "ok" if supported else "failed", found, "" if supported else "Use Python 3.11 to 3.13.")


def _versions(_loaded: LoadedSettings) -> Iterator[CheckResult]:
    """Yield installed versions against the lock, where this is a checkout."""
    lock = Path(cryoflow.__file__).parent.parent / "requirements.lock"
    if not lock.is_file():
        yield CheckResult("versions", "ok", "installed without a lock to compare with")
        return
    pinned = re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\n]+)", lock.read_text(), re.MULTILINE)
    versions: dict[str, set[str]] = {}
    for name, version in pinned:
        versions.setdefault(name, set()).add(version)
    installed = {_normal(d.name): d.version for d in importlib.metadata.distributions() if d.name}
    other = [
        f"{name} {installed[name]} (lock: {' or '.join(sorted(pins))})"
        for name, pins in versions.items()
        if name in installed and installed[name] not in pins
    ]
    if other:
        yield CheckResult("versions", "warning", "; ".join(other), "Run `make env` to install what the lock says.")
    else:
        yield CheckResult(
            "versions", "ok", f"{len(versions.keys() & installed.keys())} packages as in requirements.lock"
        )


def _settings(loaded: LoadedSettings) -> Iterator[CheckResult]:
    known = {f"CRYOFLOW_{name.upper()}" for name in Settings.model_fields} | set(OTHER_VARIABLES)
    unknown = sorted(name for name in os.environ if name.startswith("CRYOFLOW_") and name not in known)
    found = f"{loaded.file or f'no {FILE_NAME}'}, profile {loaded.settings.profile}"
    if unknown:
        yield CheckResult(
            "settings", "warning", f"{', '.join(unknown)} is no setting", f"Known: {', '.join(sorted(known))}."
        )
    else:
        yield CheckResult("settings", "ok", found)


def _tensorflow(_loaded: LoadedSettings) -> Iterator[CheckResult]:
    """Yield TensorFlow itself, and the GPUs that it sees."""
    from cryoflow.system.tensorflow_import import load_tensorflow

    load_tensorflow()
    import keras
    import tensorflow

    gpus = tensorflow.config.list_physical_devices("GPU")
    names = [tensorflow.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]
    yield CheckResult("tensorflow", "ok", f"TensorFlow {tensorflow.__version__}, Keras {keras.__version__}")
    if names:
        yield CheckResult("gpu", "ok", ", ".join(names))
    elif shutil.which("nvidia-smi"):
        found = "this machine has NVIDIA's driver, but TensorFlow sees no GPU"
        yield CheckResult("gpu", "warning", found, f"Install the libraries for it: {gpu_install_command()}")
    else:
        yield CheckResult("gpu", "missing", "no GPU: training and un-picking run on the CPU")


def gpu_install_command() -> str:
    """Return the command that adds TensorFlow's GPU libraries to this installation."""
    checkout = Path(cryoflow.__file__).parent.parent
    if (checkout / "Makefile").is_file() and (checkout / "requirements.lock").is_file():
        return f"make -C {shlex.quote(str(checkout))} env GPU=1"
    return f"{shlex.quote(sys.executable)} -m pip install 'cryoflow-em[gpu]'"


def _reading(_loaded: LoadedSettings) -> Iterator[CheckResult]:
    """Yield whether a micrograph can be written and read again."""
    import numpy as np

    from cryoflow.micrographs.image import read_micrograph, write_mrc

    image = np.arange(6, dtype=np.float32).reshape(2, 3)
    with tempfile.TemporaryDirectory() as folder:
        write_mrc(Path(folder, "micrograph.mrc"), image, pixel_size_A=1.0)
        same = np.array_equal(read_micrograph(Path(folder, "micrograph.mrc")), image)
    yield CheckResult("micrographs", "ok" if same else "failed", "a micrograph was written and read back")


def _disk(loaded: LoadedSettings) -> Iterator[CheckResult]:
    """Write access and free space where cryoflow writes."""
    folders = {"working folder": Path.cwd(), "temporary files": Path(tempfile.gettempdir())}
    if loaded.settings.database:
        folders["database"] = loaded.settings.database
    for name, wanted in folders.items():
        folder = next(f for f in (wanted, *wanted.resolve().parents) if f.exists())
        free_gb = shutil.disk_usage(folder).free / 1e9
        if not os.access(folder, os.W_OK | os.X_OK):
            yield CheckResult(name, "warning", f"{folder} cannot be written to")
        elif free_gb < loaded.settings.min_free_gb:
            hint = f"Below min_free_gb = {loaded.settings.min_free_gb:g}."
            yield CheckResult(name, "warning", f"{folder}: {free_gb:.1f} GB free", hint)
        else:
            yield CheckResult(name, "ok", f"{folder}: {free_gb:.0f} GB free")


def _prefect(_loaded: LoadedSettings) -> Iterator[CheckResult]:
    from cryoflow.settings.prefect_files import guard_prefect

    guard_prefect()
    from prefect.settings import get_current_settings

    url = get_current_settings().api.url
    if not url:
        yield CheckResult("prefect", "ok", "no PREFECT_API_URL: flows use the embedded server")
    elif problem := access_problem(url):
        hint = "Start it with `prefect server start`, or unset PREFECT_API_URL to use the embedded one."
        yield CheckResult("prefect", "failed", problem, hint)
    else:
        yield CheckResult("prefect", "ok", f"the server at {url} answers")


def server_problem(url: str) -> str:
    """Return why the Prefect server at an address cannot be used, empty where it answers."""
    if not url.startswith(("http://", "https://")):
        return f"PREFECT_API_URL is {url}, not an http address"
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=5):  # noqa: S310  # http(s), checked above
            return ""
    except (OSError, ValueError) as error:
        return f"no answer from Prefect's server at {url} ({error})"


def access_problem(url: str) -> str:
    """Return why runs cannot be started at a Prefect server (away, or a secret is needed), empty where they can."""
    if problem := server_problem(url):
        return problem
    secret = os.environ.get("PREFECT_API_AUTH_STRING", "")
    headers = {"Authorization": f"Basic {base64.b64encode(secret.encode()).decode()}"} if secret else {}
    request = urllib.request.Request(f"{url.rstrip('/')}/admin/version", headers=headers)  # noqa: S310  # as above
    try:
        with urllib.request.urlopen(request, timeout=5):  # noqa: S310
            return ""
    except urllib.error.HTTPError as error:
        if error.code != 401 or (not secret and _is_in_a_profile("PREFECT_API_AUTH_STRING")):
            return ""
    except (OSError, ValueError):
        return ""  # it answered a moment ago
    wrong = "the secret in PREFECT_API_AUTH_STRING is not the one" if secret else "PREFECT_API_AUTH_STRING is not set"
    return f"Prefect's server at {url} asks for a secret, and {wrong}"


def _is_in_a_profile(setting: str) -> bool:
    """Return whether a file of Prefect's profiles has a setting."""
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    try:
        return setting in Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml").read_text()
    except OSError:
        return False


def _slurm(_loaded: LoadedSettings) -> Iterator[CheckResult]:
    yield _program("slurm", "sinfo", "--version")


def _apptainer(_loaded: LoadedSettings) -> Iterator[CheckResult]:
    yield _program("apptainer", "apptainer", "--version")


def _docker(_loaded: LoadedSettings) -> Iterator[CheckResult]:
    if shutil.which("docker") is None:
        yield CheckResult("docker", "missing", "no docker on PATH")
        return
    yield _program("docker", "docker", "info", "--format", "Docker Engine {{.ServerVersion}}")


def _program(check: str, *argv: str) -> CheckResult:
    from cryoflow.system.programs import run

    if shutil.which(argv[0]) is None:
        return CheckResult(check, "missing", f"no {argv[0]} on PATH")
    try:
        return CheckResult(check, "ok", run(argv, timeout_s=15).strip().splitlines()[-1])
    except CryoflowError as error:
        return CheckResult(check, "warning", f"{argv[0]} is here but does not answer: {str(error).splitlines()[-1]}")


def _normal(name: str) -> str:
    """Return a package name as locks write it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _images(loaded: LoadedSettings) -> Iterator[CheckResult]:
    site = loaded.settings.site
    if missing := site.missing_images():
        text = f"{', '.join(missing)}: no such file; containers/build makes it, or correct [site] of cryoflow.toml"
        yield CheckResult("images", "warning", text)
    elif images := [image for image in (site.cpu_image, site.gpu_image) if image and image.startswith("/")]:
        yield CheckResult("images", "ok", f"{', '.join(images)} (`doctor --image` looks into one)")


Check = Callable[[LoadedSettings], Iterator[CheckResult]]

CHECKS: Mapping[str, Check] = {
    "python": _python,
    "versions": _versions,
    "settings": _settings,
    "tensorflow": _tensorflow,
    "micrographs": _reading,
    "disk": _disk,
    "prefect": _prefect,
    "slurm": _slurm,
    "apptainer": _apptainer,
    "images": _images,
    "docker": _docker,
}
"""All checks by name, in the order in which they run."""


def examine(loaded: LoadedSettings, checks: Mapping[str, Check] = CHECKS) -> Iterator[CheckResult]:
    """Run checks one after the other; none raises. The first import of TensorFlow takes seconds."""
    for name, check in checks.items():
        try:
            yield from check(loaded)
        except (CryoflowError, OSError, ImportError) as error:
            yield CheckResult(name, "failed", f"{type(error).__name__}: {error}")
