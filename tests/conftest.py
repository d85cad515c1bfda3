"""What all tests share: real files, hostile names, a Prefect server, and which parts of the machine tests may need."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from killed import tensorflow_has_run

from cryoflow.system.working_folder import OURS, SAFE_PATH

# Each run tries the same examples, so that a change is judged by what it changes; `make explore` looks for new ones.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.register_profile("explore", deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# Errors of objects that the garbage collector ends are ignored: Prefect leaves sockets open. pytest's hook formats
# tracebacks of them, which parses code in the middle of what may be parsing: see cryoflow.system.garbage_collector.
sys.unraisablehook = lambda _: None

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")
# Threads add numbers in another order each time, which a training enlarges; and the tests already use all cores.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
for _name in [n for n in os.environ if n.startswith("CRYOFLOW_")]:
    if _name not in (
        "CRYOFLOW_REALDATA",
        "CRYOFLOW_CASES",
        "CRYOFLOW_CI_REQUIRE",
        "CRYOFLOW_CPU_IMAGE",
        "CRYOFLOW_DOCKER_IMAGE",
    ):
        del os.environ[_name]  # the settings of whoever runs the tests are not the tests'

ROOT = Path(__file__).resolve().parent.parent
_setattr = pytest.MonkeyPatch.setattr


def _set_public(self: pytest.MonkeyPatch, target: object, name: object, *value: object, **options: object) -> None:
    """Refuse to replace a private name of our code: ruff sees the names that tests import, not those in texts."""
    home, attribute = (target, name) if value or "value" in options else str(target).rpartition(".")[::2]
    owner = home if isinstance(home, str) else getattr(home, "__module__", None) or getattr(home, "__name__", "")
    is_private = str(attribute).startswith("_") and not str(attribute).endswith("__")
    if is_private and str(owner).partition(".")[0] in ("cryoflow", "flows"):
        pytest.fail(f"{owner}: {attribute} is private; test what the module does, or give it a public seam")
    _setattr(self, target, name, *value, **options)  # type: ignore[arg-type]


pytest.MonkeyPatch.setattr = _set_public  # type: ignore[assignment,method-assign]


@pytest.fixture(autouse=True)
def _no_setting_is_left_behind() -> Iterator[None]:
    """A setting that a test leaves in the environment would be that of all tests after it."""
    before = {name: value for name, value in os.environ.items() if name.startswith("CRYOFLOW_")}
    yield
    left = {name: value for name, value in os.environ.items() if name.startswith("CRYOFLOW_")}
    for name in left.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)
    assert left == before


@pytest.fixture(autouse=True)
def _programs_of_tests_import_from_their_folder() -> None:
    """The import of flows, by any test module, would keep scripts of tests from importing what lies beside them."""
    if os.environ.get(SAFE_PATH) == OURS:
        del os.environ[SAFE_PATH]


@pytest.fixture(autouse=True)
def _logging_is_as_in_a_new_process() -> Iterator[None]:
    """Commands that a test runs in this process set up logging; the next test must not inherit it."""
    logger = logging.getLogger("cryoflow")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.fixture(scope="session")
def realdata() -> Path:
    """Folder of real files, written by the programs themselves; tests skip where there is none."""
    folder = Path(os.environ.get("CRYOFLOW_REALDATA", ROOT.parent / "shared" / "realdata"))
    if not folder.is_dir():
        pytest.skip(f"no real files: CRYOFLOW_REALDATA names no folder and {folder} is none")
    return folder


@pytest.fixture(scope="session")
def cases() -> Path:
    """Folder of inputs on which readers once failed, with `command.txt` each; tests skip where there is none."""
    folder = Path(os.environ.get("CRYOFLOW_CASES", ROOT.parent / "shared" / "cases"))
    if not folder.is_dir():
        pytest.skip(f"no cases: CRYOFLOW_CASES names no folder and {folder} is none")
    return folder


@pytest.fixture(params=["plain", "with space", "quote'\"s", "$(touch pwned);&|", "new\nline", "ünïcode ☃", "-rf"])
def hostile_name(request: pytest.FixtureRequest) -> str:
    """A folder name that breaks shell strings, quoting and careless parsers."""
    return str(request.param)


@pytest.fixture
def grown_mb() -> Callable[[], float]:
    """Megabytes by which memory rose since the test began, at its highest; earlier tests count for nothing."""

    def status(name: str) -> int:
        return int(Path("/proc/self/status").read_text().partition(f"{name}:")[2].split()[0])

    Path("/proc/self/clear_refs").write_text("5")  # the highest is what there is now
    before = status("VmRSS")
    return lambda: (status("VmHWM") - before) / 1024


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A Prefect server with a database of its own, for the whole session."""
    import flows  # noqa: F401  # sets Prefect's environment before it is imported

    # isort: split
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        # SQLite refuses a write that another one overtook. Prefect's client repeats it after 2, 4, ... 32 s, then gives
        # up, which most of these tests met and a busy machine once failed by. The harness gives the setting to threads.
        stack.enter_context(temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 60}))
        with pytest.MonkeyPatch.context() as while_it_starts:
            if os.access("/dev/shm", os.W_OK):  # a busy disk would hold up every write
                while_it_starts.setattr(tempfile, "tempdir", "/dev/shm")
            stack.enter_context(prefect_test_harness(server_startup_timeout=500))
        patch.setattr("prefect.client.base.clamped_poisson_interval", lambda seconds, jitter: min(seconds, 0.2))
        yield


def pickers_path() -> str:
    """Where the real pickers' commands are looked for: $PICKERS_DIR/bin, then PATH."""
    home = os.environ.get("PICKERS_DIR", "/var/tmp/testbed-pickers")
    return os.pathsep.join((os.path.join(home, "bin"), os.environ.get("PATH", "")))


def _answers(*argv: str) -> bool:
    try:
        return subprocess.run(argv, capture_output=True, timeout=120, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


PARTS: dict[str, Callable[[], bool]] = {
    "slurm": cache(lambda: _answers("sinfo")),
    "slurmrestd": cache(lambda: _answers("sinfo") and bool(shutil.which("slurmrestd"))),
    "docker": cache(lambda: _answers("docker", "info")),
    "apptainer": cache(lambda: _answers("apptainer", "version")),
    "pickers": cache(lambda: all(shutil.which(name, path=pickers_path()) for name in ("topaz", "cryolo_predict"))),
    "browser": cache(lambda: bool(shutil.which("chromium"))),
    "nginx": cache(lambda: bool(shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin"))),
}
"""Marker -> whether this machine has what tests with that marker need."""


SLOW = (
    "promises/",
    "flows/",
    "cluster/test_slurm_worker.py",
    "cluster/test_dispatch_shards.py",
    "database/test_database_faults.py",
    "pickers/test_preflight.py",
    "pickers/test_export_shards.py",
    "unpicker/test_unpicker_cli.py",
    "unpicker/test_unpicker_training.py",
    "unpicker/test_unpicker_unpick.py",
)
"""Folders and files, below this one, whose tests are all in the slow lane; single tests carry the marker themselves."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if str(item.path.relative_to(ROOT / "tests")).startswith(SLOW):
            item.add_marker(pytest.mark.slow)
    # Tests that fork run first, before TensorFlow has run; tests of an image, which takes minutes to build, run last.
    n_in = Counter(item.path for item in items)
    items.sort(
        key=lambda item: (
            "cpu_image" in getattr(item, "fixturenames", ()),
            not item.get_closest_marker("forks"),
            -n_in[item.path] if item.config.getoption("dist") == "loadscope" else 0,
        )
    )


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that forks in a new process where TensorFlow has run in this one: a fork may copy a held lock."""
    if not pyfuncitem.get_closest_marker("forks") or not tensorflow_has_run():
        return None
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", pyfuncitem.nodeid]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    if "1 skipped" in done.stdout:
        pytest.skip(done.stdout)
    return True


SHARED = {
    "tests/cluster/test_docker_real.py": "docker",
    "tests/pickers/test_picker_images.py": "docker",
    "tests/pickers/test_slurm_job_of_a_picker.py": "slurm",
    "tests/cluster/": "slurm",
}
"""Start of a test's id -> what the test shares: tests stop its daemons and count its jobs, so they run one by one."""


def site_group(test: str) -> str:
    """Return the group of a test of the site lane: what it shares with others, else its file."""
    return next((group for start, group in SHARED.items() if test.startswith(start)), test.partition("::")[0])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each group of the site lane to one process. xdist's own `loadgroup` does nothing with pytest 9.2."""
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class SiteScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return site_group(nodeid)

    return SiteScheduling(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    markers = {marker.name for marker in item.iter_markers()}
    for shared in markers & set(SHARED.values()):
        assert site_group(item.nodeid) == shared, "name this file in SHARED: its tests would run beside others"
    for part, is_there in PARTS.items():
        if item.get_closest_marker(part) and not is_there():
            pytest.skip(f"this machine offers no {part}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where the machine was said to have what the test needs."""
    report = yield
    required = {part for part in os.environ.get("CRYOFLOW_CI_REQUIRE", "").split(",") if part}
    needed = required & {marker.name for marker in item.iter_markers()}
    if report.skipped and needed and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped although {', '.join(sorted(needed))} must be here: {report.longrepr}"
    return report
