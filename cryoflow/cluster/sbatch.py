"""A job as text: the script that sbatch gets, with every value quoted, and the environment it is submitted with."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath

from cryoflow.cluster.job import SlurmJobConfiguration
from cryoflow.cluster.scheduler import QueuedJob

TAG = "cryoflow:"
"""Start of a job's comment; the flow run's id follows. It finds a job whose number was never written down."""

SEEN_INSIDE = ("SLURM_*", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "GPU_DEVICE_ORDINAL", "ROCR_VISIBLE_DEVICES")
"""Variables of the job that --cleanenv would hide from the image; without them a job would use its neighbour's GPU."""

SERVERS_OWN = ("PREFECT_SERVER_DATABASE_", "PREFECT_API_DATABASE_", "PREFECT_SERVER_API_AUTH_STRING")
"""Start of variables with secrets of the server, which no job needs; a worker that shares its environment has them."""

_PLAIN = re.compile(r"[A-Za-z0-9_./:=,@%+-]+")


def directive(option: str) -> str:
    r"""One `#SBATCH` line. sbatch has its own rules: double quotes keep everything, `\` keeps the next character.

    Raises
    ------
    ValueError
        For a line break, which cannot be quoted.

    >>> directive('--job-name=a "b"')
    '#SBATCH "--job-name=a \\"b\\""'
    """
    if any(character in option for character in "\n\r\0"):
        raise ValueError(f"{option!r} has a line break in it, which sbatch cannot be given")
    if not _PLAIN.fullmatch(option):
        option = '"' + re.sub(r'(["\\])', r"\\\1", option) + '"'
    return f"#SBATCH {option}"


def job_name(name: str) -> str:
    """A name for squeue: the run's own, on one line, and short."""
    return re.sub(r"[\s|=]+", " ", name).strip()[:80] or "cryoflow"


def mount(folder: str, *, read_only: bool) -> str:
    """The value of `apptainer --mount` that shows a folder at its own path.

    It is a line of CSV, so that colons, commas and quotes in a path do no harm; `--bind` has no quoting.
    """
    fields = ["type=bind", f"source={folder}", f"destination={folder}", *(["ro"] if read_only else [])]
    return ",".join('"' + f.replace('"', '""') + '"' if set(f) & set(',"') else f for f in fields)


def container_command(job: SlurmJobConfiguration) -> list[str]:
    """`apptainer exec` and its arguments, up to the image. Outer folders come first: inner ones show in them."""
    folders = [(f, True) for f in job.read_only] + [(f, False) for f in job.read_write]
    mounts = [
        word
        for folder, read_only in sorted(folders, key=lambda f: (len(PurePath(f[0]).parts), f[0]))
        for word in ("--mount", mount(folder, read_only=read_only))
    ]
    isolation = ["--cleanenv", "--no-home", "--no-mount", "cwd", "--pwd", "/"]
    nv = ["--nv"] if job.gpus else []
    return [job.apptainer, "exec", *isolation, *nv, *mounts, *job.apptainer_options]


def not_shown(job: SlurmJobConfiguration, parameters: object) -> list[str]:
    """Paths among a flow's parameters that lie in no folder that its image is shown.

    >>> job = SlurmJobConfiguration(image="/i.sif", read_only=["/data"])
    >>> not_shown(job, {"parameters": {"roots": ["/data/P12"], "database": "/home/ann/picks", "remaps": ["/a=/b"]}})
    ['/home/ann/picks']
    """
    if not job.image:
        return []
    if isinstance(parameters, Mapping):
        return [path for value in parameters.values() for path in not_shown(job, value)]
    if isinstance(parameters, list | tuple):
        return [path for value in parameters for path in not_shown(job, value)]
    if not isinstance(parameters, str) or not parameters.startswith("/") or "=" in parameters:
        return []
    shown = any(PurePath(parameters).is_relative_to(folder) for folder in (*job.read_only, *job.read_write))
    return [] if shown else [parameters]


def script(job: SlurmJobConfiguration, *, name: str, flow_run_id: str, log_file: Path) -> str:
    """The whole job script.

    Parameters
    ----------
    name
        Name of the flow run.
    log_file
        Absolute path; must not contain a backslash.
    """
    gres = ("gpu", job.gpu_type, str(job.gpus))
    options = {
        "job-name": job_name(name),
        "comment": f"{TAG}{flow_run_id}",
        "output": str(log_file).replace("%", "%%"),
        "chdir": str(log_file.parent),
        "nodes": "1",
        "ntasks": "1",
        "cpus-per-task": str(job.cpus),
        "mem": f"{job.memory_mb}M",
        "time": str(job.minutes),
        "partition": job.partition,
        "account": job.account,
        "qos": job.qos,
        "constraint": job.constraint,
        "gres": ":".join(part for part in gres if part) if job.gpus else None,
    }
    directives = [f"--{key}={value}" for key, value in options.items() if value]
    # A job that SLURM starts again by itself would run beside a run that Prefect has already given up.
    directives += ["--no-requeue", "--open-mode=append", *job.extra_directives]
    parts = [_HEAD, _job_folder(job.scratch)]
    if job.setup.strip():
        parts.append(f"# Setup of this site\n{job.setup.strip()}\n")
    parts.append(_hand_on() if job.image else "")
    parts.append(_command(job))
    return "#!/bin/bash\n" + "\n".join(map(directive, directives)) + "\n\n" + "\n".join(filter(None, parts))


_HEAD = """\
echo "cryoflow: SLURM job $SLURM_JOB_ID on ${SLURMD_NODENAME:-$(hostname)}, $(date '+%F %T')"
trap : TERM  # the stage gets the signal too; stay until it has cleaned up
"""


def _job_folder(scratch: str | None) -> str:
    where = shlex.quote(scratch) if scratch else '"${TMPDIR:-/tmp}"'
    lines = [
        "# A folder of this job's own, gone when it ends. What killed jobs left goes now: nobody holds its lock",
        f"where={where}",
        'for left in "$where"/cryoflow-job-*/lock; do',
        '    [ -O "$left" ] && flock --nonblock "$left" rm -rf -- "${left%/lock}"',
        "done",
        'folder=$(mktemp -d -p "$where" cryoflow-job-$SLURM_JOB_ID.XXXXXX) || exit',
        'exec 9> "$folder/new" && flock 9 && mv "$folder/new" "$folder/lock"  # as `lock` it is locked from the start',
        "trap 'rm -rf -- \"$folder\"' EXIT",
        'mkdir "$folder/tmp" "$folder/prefect" "$folder/cache"',
        'export TMPDIR="$folder/tmp" PREFECT_HOME="$folder/prefect" XDG_CACHE_HOME="$folder/cache"',
        'export MPLCONFIGDIR="$folder/cache"',
    ]
    if scratch:
        lines.append('export CRYOFLOW_SCRATCH="$folder/tmp"')
    return "\n".join(lines) + "\n"


def _hand_on() -> str:
    names = "|".join((*SEEN_INSIDE, "TMPDIR", "PREFECT_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "CRYOFLOW_SCRATCH"))
    return f"""\
# What --cleanenv would hide from the image
for name in $(compgen -e); do
    case $name in {names}) export "APPTAINERENV_$name=${{!name}}" ;; esac
done
"""


def _command(job: SlurmJobConfiguration) -> str:
    if not job.image:
        return shlex.join(job.argv) + "\n"
    lines = [""]
    for word in container_command(job):  # a line for each mount, for those who read the script
        lines = [*lines, word] if word == "--mount" else [*lines[:-1], f"{lines[-1]} {shlex.quote(word)}".strip()]
    # $folder is known on the node only; like every mount it is CSV, and mktemp's names need no quoting
    lines += ['--mount "type=bind,source=$folder,destination=$folder"', shlex.quote(job.image), shlex.join(job.argv)]
    return " \\\n    ".join(lines) + "\n"


def environment(job: SlurmJobConfiguration, own: Mapping[str, str]) -> dict[str, str]:
    """What sbatch is started with, and the job therefore sees. Secrets travel here, not in a file or an argument list.

    Parameters
    ----------
    own
        The worker's environment. Where the worker itself runs inside a SLURM job, that job's settings are left out.
    """
    hidden = ("SLURM_", "SBATCH_", "PREFECT__", "APPTAINERENV_", "SINGULARITYENV_", *SERVERS_OWN)
    kept = {k: v for k, v in own.items() if k == "SLURM_CONF" or not k.startswith(hidden)}
    threads = str(job.cpus)  # else a library starts a thread per core of the node, on the few cores of the job
    given = {
        **{name: threads for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")},
        "PYTHONUNBUFFERED": "1",
        "PYTHONNOUSERSITE": "1",
        **{k: v for k, v in job.env.items() if v is not None and not k.startswith(SERVERS_OWN)},
    }
    if job.image:
        return kept | {f"APPTAINERENV_{k}": v for k, v in given.items()}
    return kept | given


def find(jobs: Iterable[QueuedJob], flow_run_id: object) -> int | None:
    """The newest job of a flow run among those in the queue, by its comment."""
    return max((job.job_id for job in jobs if job.comment == f"{TAG}{flow_run_id}"), default=None)
