"""Checks of an image: what stages need of it, asked from within it, mounted and started as they would be.

`cryoflow doctor --image` makes them; the answers are `cryoflow.doctor.CheckResult`s.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cryoflow.cluster.docker import container
from cryoflow.doctor import CheckResult, server_problem
from cryoflow.errors import ToolFailed
from cryoflow.execution.containers import Mounts, apptainer_exec, docker_run
from cryoflow.settings.load import Settings
from cryoflow.system import programs

REBUILD = "Build it anew: `make images`."
SAME = ("cryoflow-em", "prefect")
"""Another version of these, and a stage may not be understood by the server, or its form not by the stage."""


def examine_image(image: str, settings: Settings) -> Iterator[CheckResult]:
    """Check an image: an Apptainer image where it is a path, else one that Docker Engine has by that name."""
    apptainer = image.endswith(".sif") or ("/" in image and Path(image).exists())
    wants_gpu = shutil.which("nvidia-smi") is not None
    site = settings.site
    api = f"{site.server.rstrip('/')}/api"
    asked = {
        "read": [str(p) for p in site.read_only],
        "write": [str(p) for p in (*site.read_write, *_database_to_check(settings))],
        "server": [] if server_problem(api) else [f"{api}/health"],
    }
    missing = [p for folder in ("read", "write") for p in asked[folder] if not Path(p).exists()]
    for folder in missing:
        yield CheckResult(
            folder, "failed", "this machine has no such folder", "Make it, or correct [site] in cryoflow.toml."
        )
    asked |= {name: [p for p in asked[name] if p not in missing] for name in ("read", "write")}
    start = _apptainer(image, settings, wants_gpu) if apptainer else _docker(image, settings, wants_gpu)
    probe = Path(__file__).with_name("probe.py").read_text()
    try:
        yield CheckResult("image", "ok", f"{image}: {_labels(image) if apptainer else _docker_labels(image)}")
        output = programs.run([*start, "-c", probe, json.dumps(asked)], timeout_s=300)
        answer = json.loads(output.strip().splitlines()[-1])
    except ToolFailed as error:
        last = [line for line in error.tail.splitlines() if line.strip()] or [str(error)]
        yield CheckResult("start", "failed", last[-1].strip(), "Build it with `make images`, or name another.")
        return
    except (ValueError, IndexError):
        yield CheckResult(
            "start", "failed", "the Python in it does not answer as it should", "Build it anew: `make images`."
        )
        return
    yield from compare_image(answer, wants_gpu=wants_gpu)


def compare_image(answer: Mapping[str, Any], *, wants_gpu: bool) -> Iterator[CheckResult]:
    """Yield one result for each property of an image that is checked, from the answer of the probe inside it."""
    root = answer["user"] == 0 and os.getuid() != 0
    found = f"Python {answer['python']}, as user {answer['user']}"
    hint = "What it writes would belong to root." if root else ""
    yield CheckResult("start", "failed" if root else "ok", found, hint)
    broken = {name: problem for name, problem in answer["imports"].items() if problem}
    if broken:
        text = "; ".join(f"{name}: {problem}" for name, problem in broken.items())
        yield CheckResult("imports", "failed", text, REBUILD)
    else:
        yield CheckResult("imports", "ok", ", ".join(answer["imports"]))
    if "cryoflow" in answer["imports"]:
        yield _versions(answer["versions"], answer["python"])
    if answer["gpus"]:
        yield CheckResult("gpu", "ok", ", ".join(answer["gpus"]))
    elif wants_gpu:
        hint = "Is it the GPU image? Apptainer needs --nv, Docker the NVIDIA container toolkit."
        yield CheckResult("gpu", "warning", "this machine has NVIDIA's driver, but the image sees no GPU", hint)
    else:
        yield CheckResult("gpu", "missing", "this machine has no GPU: try it on a node that has one")
    n = answer["certificates"]
    hint = "" if n else "Put ca-certificates into its base; SSL_CERT_FILE of this machine does not count in it."
    yield CheckResult("certificates", "ok" if n else "failed", f"{n or 'no'} authorities are trusted", hint)
    for folder, problem in answer["read"].items():
        if problem:
            yield CheckResult(folder, "failed", f"cannot be read: {problem}")
        elif not answer["read_only"][folder]:
            yield CheckResult(folder, "failed", "is not mounted read-only", "Projects must not be written to.")
        else:
            yield CheckResult(folder, "ok", "can be read, and not written to")
    for folder, problem in answer["write"].items():
        hint = "It belongs to somebody else, or is not among read_write." if problem else ""
        yield CheckResult(folder, "failed" if problem else "ok", problem or "can be written to", hint)
    for url, problem in answer["server"].items():
        yield CheckResult("server", "failed" if problem else "ok", f"{url}: {problem or 'answers'}")


def _versions(image: Mapping[str, str], python: str) -> CheckResult:
    """Compare the image's packages with ours; the CPU build of TensorFlow counts as TensorFlow."""
    inside = {("tensorflow" if name == "tensorflow-cpu" else name): version for name, version in image.items()}
    here = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in importlib.metadata.distributions()}
    both = sorted(inside.keys() & here.keys() - {"pip", "setuptools", "wheel"})
    other = {name: f"{name} {inside[name]} (here {here[name]})" for name in both if inside[name] != here[name]}
    if python.split(".")[:2] != platform.python_version().split(".")[:2]:
        other["python"] = f"Python {python} (here {platform.python_version()})"
    if not other:
        return CheckResult("versions", "ok", f"{len(both)} packages as on this machine")
    grave = not set(SAME).isdisjoint(other)
    hint = "Build image and environment from the same checkout: `make env images`, then `cryoflow deploy`."
    return CheckResult("versions", "failed" if grave else "warning", "; ".join(other.values()), hint)


def _apptainer(image: str, settings: Settings, wants_gpu: bool) -> list[str]:
    """Return the command line of a job's container."""
    site = settings.site
    mounts = Mounts(_existing(site.read_only), _existing(site.read_write))
    words = apptainer_exec(str(Path(image).absolute()), mounts, gpu=wants_gpu, options=site.apptainer_options)
    return [*words, "python"]


def _docker(image: str, settings: Settings, wants_gpu: bool) -> list[str]:
    """Return the command line of a container as the profile `docker` starts it."""
    site, shared = settings.site, container(settings.site)
    return docker_run(
        image,
        Mounts(_existing(site.read_only), _existing(site.read_write)),
        gpu=wants_gpu,
        program="python",
        environment=shared.environment,
        options=("--pull", "never", "--network", shared.network),
    )


def _database_to_check(settings: Settings) -> tuple[Path, ...]:
    """Return the database's folder; none where the first ingest makes it, in a folder that is checked itself."""
    database = settings.database
    if database is None or (not database.exists() and any(map(database.is_relative_to, settings.site.read_write))):
        return ()
    return (database,)


def _existing(folders: tuple[Path, ...]) -> tuple[str, ...]:
    return tuple(str(p) for p in folders if p.exists())


def _labels(image: str) -> str:
    text = programs.run(["apptainer", "inspect", "--json", "--labels", image], timeout_s=60)
    labels = json.loads(text)["data"]["attributes"]["labels"]
    return _describe(labels, Path(image).stat().st_size)


def _docker_labels(image: str) -> str:
    text = programs.run(["docker", "image", "inspect", image], timeout_s=60)
    (found,) = json.loads(text)
    return _describe(found["Config"].get("Labels") or {}, found["Size"])


def _describe(labels: Mapping[str, str], n_bytes: int) -> str:
    prefix = "org.opencontainers.image"
    version, commit = labels.get(f"{prefix}.version", "?"), labels.get(f"{prefix}.revision", "?")
    commit = commit[:12] + ("-dirty" if commit.endswith("-dirty") else "")
    return f"version {version}, commit {commit}, {labels.get('cryoflow.kind', '?')}, {n_bytes / 1e6:.0f} MB"
