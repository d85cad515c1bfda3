"""Write a commented cryoflow.toml for the SLURM cluster that this machine belongs to: `cryoflow site init`."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryoflow.errors import CryoflowError, ToolFailed
from cryoflow.system.programs import run

_FIELDS = ("PARTITION", "TIME", "CPUS", "MEMORY", "GRES", "FEATURES", "NODES")
_SINFO = "%R|%l|%c|%m|%G|%f|%D"


@dataclass(frozen=True)
class Partition:
    """One partition as sinfo prints it; nodes of several kinds give the smallest number of each."""

    name: str
    is_default: bool
    minutes: int | None
    """Time limit, None for no limit."""
    cpus: int
    memory_mb: int
    gpus: int
    gpu_types: tuple[str, ...]
    nodes: int


@dataclass(frozen=True)
class Association:
    """One account of this user, from sacctmgr. Unlimited is None."""

    account: str
    qos: str
    max_submit: int | None
    max_jobs: int | None = None
    """Jobs of this user that run at the same time."""
    minutes: int | None = None
    """Time limit of a job."""


@dataclass(frozen=True)
class Qos:
    """One quality of service, from sacctmgr. Unlimited is None or empty."""

    name: str
    max_submit: int | None
    max_jobs: int | None
    minutes: int | None
    resources: str
    """What one user's running jobs may have together, such as `cpu=64,gres/gpu=2`."""


@dataclass(frozen=True)
class ClusterSurvey:
    """A cluster and this user's limits on it, from sinfo and sacctmgr."""

    partitions: list[Partition]
    associations: list[Association]
    qos: list[Qos]


def ask_cluster() -> ClusterSurvey:
    """Return the partitions, this user's accounts, and the qualities of service that these may use.

    Raises
    ------
    CryoflowError
        Where SLURM's commands are missing or do not answer.
    """
    if not shutil.which("sinfo"):
        hint = "Start this on a login node of the cluster, or start from a file of examples/sites."
        raise CryoflowError(f"sinfo is not on the PATH. {hint}")
    partitions = parse_sinfo(run(["sinfo", "--noheader", f"--format=%P|{_SINFO}"], timeout_s=60))
    if not partitions:
        raise CryoflowError("sinfo lists no partition.")
    try:
        import getpass

        associations = parse_associations(
            _sacctmgr("associations", f"user={getpass.getuser()}", "format=Account,QOS,MaxSubmitJobs,MaxJobs,MaxWall")
        )
        allowed = {name for association in associations for name in association.qos.split(",")}
        found = _sacctmgr("qos", "format=Name,MaxSubmitJobsPerUser,MaxJobsPerUser,MaxWall,MaxTRESPerUser")
        qos = [each for each in parse_qos(found) if each.name in allowed]
    except ToolFailed:
        associations, qos = [], []  # no accounting
    return ClusterSurvey(partitions, associations, qos)


def _sacctmgr(*words: str) -> str:
    return run(["sacctmgr", "--noheader", "--parsable2", "show", *words], timeout_s=60)


def parse_sinfo(printed: str) -> list[Partition]:
    """Read `sinfo --format=%P|%R|%l|%c|%m|%G|%f|%D`, a line for each kind of node."""
    rows: dict[str, list[list[str]]] = {}
    defaults = set()
    for line in printed.splitlines():
        marked, *fields = line.strip().split("|")
        if len(fields) == len(_FIELDS):
            rows.setdefault(fields[0], []).append(fields)
            if marked.endswith("*"):
                defaults.add(fields[0])
    return [_partition(name, name in defaults, kinds) for name, kinds in rows.items()]


def _partition(name: str, is_default: bool, kinds: Sequence[Sequence[str]]) -> Partition:
    found = [m for kind in kinds for m in re.finditer(r"gpu(?::([A-Za-z][\w.-]*))?:(\d+)", kind[4])]
    return Partition(
        name,
        is_default,
        _minutes(kinds[0][1]),
        min(_number(kind[2]) for kind in kinds),
        min(_number(kind[3]) for kind in kinds),
        max((int(m[2]) for m in found), default=0),
        tuple(dict.fromkeys(m[1] for m in found if m[1])),
        sum(_number(kind[6]) for kind in kinds),
    )


def parse_associations(printed: str) -> list[Association]:
    """Read `sacctmgr --parsable2 show associations format=Account,QOS,MaxSubmitJobs,MaxJobs,MaxWall`."""
    rows = [line.split("|") for line in printed.splitlines() if line.count("|") == 4]
    return [Association(row[0], row[1], _limit(row[2]), _limit(row[3]), _minutes(row[4])) for row in rows]


def parse_qos(printed: str) -> list[Qos]:
    """Read `sacctmgr --parsable2 show qos format=Name,MaxSubmitJobsPerUser,MaxJobsPerUser,MaxWall,MaxTRESPerUser`."""
    rows = [line.split("|") for line in printed.splitlines() if line.count("|") == 4]
    return [Qos(row[0], _limit(row[1]), _limit(row[2]), _minutes(row[3]), row[4]) for row in rows]


def _limit(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def cryoflow_toml(cluster: ClusterSurvey, host: str) -> str:
    """Return a cryoflow.toml for a cluster; values that only a person can give are marked CHANGE."""
    partitions, associations = cluster.partitions, cluster.associations
    cpu = next((p for p in partitions if p.is_default and not p.gpus), None)
    cpu = cpu or next((p for p in partitions if not p.gpus), partitions[0])
    gpu = next((p for p in partitions if p.gpus), None)
    submit_limits = [a.max_submit for a in associations] + [q.max_submit for q in cluster.qos]
    limits = [limit for limit in submit_limits if limit]
    lines = [
        "# Written by `cryoflow site init` from what sinfo and sacctmgr say; lines with CHANGE need a person.",
        'profile = "slurm-bare"          # "slurm" once there are images (make images)',
        'database = "/data/cryoflow/picks"        # CHANGE: on a file system that all nodes see',
        "",
        "[site]",
        f'server = "http://{host}:4200"      # as nodes and browsers reach it',
        'server_database = "postgresql+asyncpg://cryoflow:PASSWORD@localhost/cryoflow"        # CHANGE',
        'read_only = ["/data/projects"]           # CHANGE: folders of finished projects',
        'read_write = ["/data/cryoflow"]          # CHANGE: folders of results',
        'log_folder = "/data/cryoflow/logs"       # CHANGE',
        'models = "/data/cryoflow/models"         # CHANGE',
        '# scratch = "/scratch"                   # a fast folder of each node',
        '# cpu_image = "/opt/cryoflow/images/cryoflow-cpu.sif"',
        '# gpu_image = "/opt/cryoflow/images/cryoflow-gpu.sif"',
    ]
    if limits:
        at_once = max(1, min(20, min(limits) - 2))
        lines += [f"shards_at_once = {at_once}              # this account may submit {min(limits)} jobs"]
        lines += ["# pack = 8 in a class lets eight of its runs share a job"]
    lines += ["", "# Partitions that sinfo lists:"]
    lines += [f"#   {_describe(p)}" for p in partitions]
    if associations:
        lines += ["# Accounts of this user:"]
        for a in associations:
            qos = f" (quality of service {a.qos})" if a.qos else ""
            lines.append(f"#   {a.account}{qos}{_limits(a.max_submit, a.max_jobs, a.minutes)}")
    if cluster.qos:
        lines += ['# Qualities of service that they may use: `qos = "NAME"` in a class']
        lines += [f"#   {q.name}{_limits(q.max_submit, q.max_jobs, q.minutes, q.resources)}" for q in cluster.qos]
    lines += ["", *_class("small", cpu, 1, 4, 60, associations, "exports and their shards, evaluation, report")]
    lines += ["", *_class("large", cpu, 16, 64, 480, associations, "reading many projects")]
    lines += ["", *_class("gpu", gpu or cpu, 8, 32, 720, associations, "training, picking and un-picking")]
    return "\n".join(lines) + "\n"


def _class(
    name: str,
    partition: Partition,
    cpus: int,
    memory_gb: int,
    minutes: int,
    accounts: Iterable[Association],
    about: str,
) -> list[str]:
    """Return the table of a resource class, no larger than a node of its partition."""
    limit = partition.minutes or minutes
    lines = [
        f"[site.resources.{name}]            # {about}",
        f"cpus = {max(1, min(cpus, partition.cpus))}",
        f"memory_gb = {max(1, min(memory_gb, partition.memory_mb // 1024))}",
        f"time_minutes = {min(minutes, limit)}",
        f'partition = "{partition.name}"',
    ]
    if name == "gpu":
        lines.append(f"gpus = {min(1, partition.gpus)}")
        if len(partition.gpu_types) == 1:
            lines.append(f'gpu_type = "{partition.gpu_types[0]}"')
        elif partition.gpu_types:
            kinds = ", ".join(f'"{kind}"' for kind in partition.gpu_types)
            lines.append(f"# gpu_type = [{kinds}]    # any of them, where the features of nodes name them")
        if partition.minutes and partition.minutes < 24 * 60:
            lines.append("warn_seconds = 300      # a training writes a checkpoint, and goes on in another job")
    if account := next((a.account for a in accounts), ""):
        lines.append(f'account = "{account}"')
    return lines


def _limits(max_submit: int | None, max_jobs: int | None, minutes: int | None, resources: str = "") -> str:
    """Return the limits in words, behind a colon; empty where there are none."""
    words = [f"{max_submit} jobs submitted"] * bool(max_submit) + [f"{max_jobs} at the same time"] * bool(max_jobs)
    words += [f"{minutes} minutes each"] * bool(minutes) + [f"{resources} in all"] * bool(resources)
    return f": at most {', '.join(words)}" if words else ""


def _describe(p: Partition) -> str:
    gpus = f", {p.gpus} GPUs a node{' (' + ', '.join(p.gpu_types) + ')' if p.gpu_types else ''}" if p.gpus else ""
    limit = f"{p.minutes} minutes" if p.minutes else "no limit"
    default = ", the default" if p.is_default else ""
    return f"{p.name}: {p.nodes} nodes of {p.cpus} CPUs and {p.memory_mb // 1024} GB{gpus}; {limit}{default}"


def _number(text: str) -> int:
    found = re.match(r"\d+", text)
    return int(found[0]) if found else 0


def _minutes(text: str) -> int | None:
    """Return `1-02:03:00` or `30:00` in minutes, None for `infinite`."""
    days, _, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in parts):
        return None
    hours, minutes = ([0, *map(int, parts)] if len(parts) == 2 else list(map(int, parts)))[:2]
    return (int(days or 0) * 24 + hours) * 60 + minutes
