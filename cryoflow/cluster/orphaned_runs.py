"""End orphaned runs: those whose process on this machine was killed, and the embedded servers of such processes.

A process that gets SIGKILL, or whose machine stops, reports nothing, so its run stays Running. `recovery` handles runs
in SLURM; this module handles runs in a process of this machine: `cryoflow run` and similar commands, whose runs carry a
tag that names their process, and runs of process pools. Each becomes Crashed when cryoflow starts the next time.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import flows  # noqa: F401  # sets what Prefect reads when it is imported

# isort: split
from prefect import tags
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType, WorkerStatus
from prefect.states import Crashed

from cryoflow.cluster.users import user_tag
from cryoflow.system.processes import pid_space, runs, started

log = logging.getLogger(__name__)

UNFINISHED = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
PARENT = "CRYOFLOW_STARTED_BY"
"""Variable that the embedded server inherits: number and start of the process that it serves."""
_TAG = "process"
SIGN_OF_LIFE_S = 40.0
"""Longer than a worker's heart takes for a beat, which is 30 s."""


@contextmanager
def own_runs() -> Iterator[None]:
    """Mark the runs within as those of this process, and tidy up after killed ones first."""
    end_servers()
    os.environ[PARENT] = f"{os.getpid()} {started(os.getpid())}"  # inherited by the embedded server
    end_tagged()
    with tags(tag(), user_tag()):
        yield


def tag() -> str:
    """Return the tag of this process's runs."""
    return " ".join((_TAG, socket.gethostname(), pid_space(), str(os.getpid()), started(os.getpid())))


def is_dead(tag: str) -> bool:
    """Return whether a tag is of a process of this machine that no longer runs."""
    words = tag.split(" ")
    if len(words) != 5 or words[:3] != [_TAG, socket.gethostname(), pid_space()] or not words[3].isdigit():
        return False
    return not runs(int(words[3]), words[4])


def end_tagged() -> int:
    """Call the runs of dead processes of this machine Crashed; how many."""
    here = FlowRunFilter(state=_unfinished(), deployment_id=FlowRunFilterDeploymentId(is_null_=True))
    return _crash(lambda run: any(map(is_dead, run.tags)), here)


def end_pools(pools: Collection[str], *, tell: Callable[[str], object] = log.info) -> int:
    """Call the runs of pools of processes Crashed whose process is gone; before this machine's worker is started.

    A pool that another worker serves is left alone: its processes are of another machine, perhaps. A worker that was
    killed counts as online for a while, so where there is something to end, this waits for a sign of life.

    Parameters
    ----------
    tell
        Called with a line when it waits.
    """
    n = 0
    for pool in pools:
        of_pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[pool]))
        with get_client(sync_client=True) as client:
            found = client.read_flow_runs(
                flow_run_filter=FlowRunFilter(state=_unfinished()), work_pool_filter=of_pool, limit=200
            )
            if not any(map(_process_is_gone, found)) or _is_served(client, pool, tell):
                continue
        n += _crash(_process_is_gone, FlowRunFilter(state=_unfinished()), of_pool)
    return n


def _is_served(client: SyncPrefectClient, pool: str, tell: Callable[[str], object]) -> bool:
    """Return whether a worker of a pool is online."""

    def beats() -> set[object]:
        workers = client.read_workers_for_work_pool(pool)
        return {w.last_heartbeat_time for w in workers if w.status == WorkerStatus.ONLINE}

    if not (before := beats()):
        return False
    tell(
        f"runs of the pool {pool} have lost their process; looking for {SIGN_OF_LIFE_S:g} s whether a worker serves it"
    )
    end = time.monotonic() + SIGN_OF_LIFE_S
    while time.monotonic() < end:
        time.sleep(1)
        if beats() - before:
            return True
    return False


def _process_is_gone(run: FlowRun) -> bool:
    """Return whether a run's process no longer runs here. After a reboot its number may be another process's."""
    pid = run.infrastructure_pid or ""
    if not pid.isdigit():
        return False
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except FileNotFoundError:
        return not started(int(pid))
    except OSError:
        return False  # of another user
    return f"PREFECT__FLOW_RUN_ID={run.id}".encode() not in variables


def _unfinished() -> FlowRunFilterState:
    return FlowRunFilterState(type=FlowRunFilterStateType(any_=UNFINISHED))


def _crash(is_lost: Callable[[FlowRun], bool], which: FlowRunFilter, pool: WorkPoolFilter | None = None) -> int:
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=which, work_pool_filter=pool, limit=200)
        lost = [run for run in found if is_lost(run)]
        for run in lost:
            log.warning("the run %s was killed: it is now called Crashed", run.name)
            _end(client, run)
    return len(lost)


def _end(client: SyncPrefectClient, run: FlowRun) -> None:
    """Return a run, its tasks, and the runs that it called in its own process."""
    state: State[None] = Crashed(message="Its process was killed. Run it again: it goes on from what is done.")
    only = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
    of_state = TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=UNFINISHED)))
    for task in client.read_task_runs(flow_run_filter=only, task_run_filter=of_state, limit=200):
        client.set_task_run_state(task.id, state, force=True)
    below = FlowRunFilter(state=_unfinished(), parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run.id]))
    for child in client.read_flow_runs(flow_run_filter=below, limit=200):
        if child.deployment_id is None:
            _end(client, child)
    client.set_flow_run_state(run.id, state, force=True)


def end_servers() -> int:
    """Stop embedded servers whose process was killed: they would run for ever. How many; needs /proc."""
    n = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if folder.stat().st_uid != os.getuid():
                continue
            lines = (folder / "environ").read_bytes().split(b"\0")
            variables = dict(line.partition(b"=")[::2] for line in lines)
            pid, _, since = variables.get(PARENT.encode(), b"").decode().partition(" ")
            is_server = variables.get(b"PREFECT__SERVER_EPHEMERAL") == b"1"
            if is_server and pid.isdigit() and not runs(int(pid), since):
                os.kill(int(folder.name), signal.SIGTERM)
                n += 1
        except (OSError, ValueError):
            continue
    return n


def main() -> None:
    """End the orphaned runs of the pools on the command line, before systemd starts their workers."""
    import sys

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in sys.argv[1:]:
        with get_client(sync_client=True) as client:
            kind = client.read_work_pool(name).type
        if kind == "process":  # jobs of a cluster go on, and their worker finds them again
            end_pools([name])


if __name__ == "__main__":
    main()
