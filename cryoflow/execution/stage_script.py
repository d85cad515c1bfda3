"""The job script of a stage, and the environment that it is submitted with."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from cryoflow.execution.containers import Mounts, apptainer_exec
from cryoflow.execution.job_script import slurm_script
from cryoflow.execution.pack_script import Pack, pack_commands
from cryoflow.execution.resources import JobRequest
from cryoflow.execution.slurm import QueuedJob

TAG = "cryoflow:"
"""Start of a job's comment; the flow run's id follows. It finds a job whose number was never written down."""

PASSED_INTO_IMAGE = (
    "SLURM_*", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "GPU_DEVICE_ORDINAL", "ROCR_VISIBLE_DEVICES",
    "TMPDIR", "PREFECT_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "CRYOFLOW_SCRATCH",
)  # fmt: skip
"""Variables of the job that --cleanenv would hide from the image; without them a job would use its neighbor's GPU."""

SECRETS_OF_SERVER = ("PREFECT_SERVER_DATABASE_", "PREFECT_API_DATABASE_", "PREFECT_SERVER_API_AUTH_STRING")
"""Start of variables with secrets of the server, which no job needs; a worker that shares its environment has them."""


@dataclass(frozen=True)
class StageJob:
    """One stage as a job.

    Attributes
    ----------
    image
        Apptainer image; None runs the command on the node itself.
    setup
        Shell lines of the site, run on the node before the command.
    scratch
        Folder of each node in which the job gets a folder of its own; None takes the node's temporary folder.
    pack
        Stages that share the job; None for a job of one stage.
    """

    request: JobRequest
    argv: tuple[str, ...]
    image: str | None = None
    mounts: Mounts = field(default_factory=Mounts)
    apptainer: str = "apptainer"
    apptainer_options: tuple[str, ...] = ()
    setup: str = ""
    scratch: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    pack: Pack | None = None

    def container_command(self) -> list[str]:
        """Return `apptainer exec` and its arguments, with the image."""
        return apptainer_exec(
            self.image or "",
            self.mounts,
            gpu=bool(self.request.gpus),
            program=self.apptainer,
            options=self.apptainer_options,
        )


def script(job: StageJob) -> str:
    """Return the whole job script."""
    # A job that SLURM starts again by itself would run beside a run that Prefect has already given up.
    own = ("--nodes=1", "--ntasks=1", "--no-requeue", "--open-mode=append")
    request = replace(job.request, log=job.request.log.replace("%", "%%"))
    options = [*(o for o in own if o[2:].partition("=")[0] not in request.leave_out), *request.sbatch_options()]
    return slurm_script(options, *body(job))


def body(job: StageJob) -> tuple[str, ...]:
    """Return the parts of shell behind the directives, whatever the scheduler."""
    setup = f"# Setup of this site\n{job.setup.strip()}\n" if job.setup.strip() else ""
    pass_variables = _pass_variables() if job.image else ""
    if job.pack:
        members = pack_commands(job.pack, _command(job), pass_variables, WARNED)
        return _HEAD, _job_folder(job.scratch), setup, members
    command = _warned(_command(job)) if job.request.warn_s else _command(job)
    return _HEAD, _job_folder(job.scratch), setup, pass_variables, command


WARNED = 79
"""Exit status of a job whose stage got a signal to stop before the time limit."""

_HEAD = """\
job=${SLURM_JOB_ID:-${PBS_JOBID:-${LSB_JOBID:-$JOB_ID}}} job=${job%%.*}
echo "cryoflow: job $job on ${SLURMD_NODENAME:-$(hostname)}, $(date '+%F %T')"
trap : TERM  # the stage gets the signal too; stay until it has cleaned up
"""


def _job_folder(scratch: str | None) -> str:
    where = shlex.quote(scratch) if scratch else '"${TMPDIR:-/tmp}"'
    lines = [
        "# A folder of this job's own, which it locks, and removes when it ends. Folders of killed jobs are removed",
        "# too: nobody locks them. The node is in the name: such locks hold on one node, and `where` may be shared.",
        f"where={where}",
        "node=$(uname -n) node=${node//./-}",
        'for left in "$where"/cryoflow-job-*."$node".??????; do',
        '    [ -O "$left" ] && { flock --nonblock 9 && rm -rf -- "$left"; } 2> /dev/null 9< "$left"',
        "done",
        "folder=",
        'until [ -d "$folder" ]; do  # another job that starts now may remove it before it is locked',
        '    folder=$(mktemp -d -p "$where" "cryoflow-job-$job.$node.XXXXXX") || exit',
        '    { exec 9< "$folder" && flock 9; } 2> /dev/null',
        "done",
        "trap 'rm -rf -- \"$folder\"' EXIT",
        'mkdir "$folder/tmp" "$folder/prefect" "$folder/cache"',
        'export TMPDIR="$folder/tmp" PREFECT_HOME="$folder/prefect" XDG_CACHE_HOME="$folder/cache"',
        'export MPLCONFIGDIR="$folder/cache"',
    ]
    if scratch:
        lines.append('export CRYOFLOW_SCRATCH="$folder/tmp"')
    return "\n".join(lines) + "\n"


def _pass_variables() -> str:
    return f"""\
# Pass on what --cleanenv would hide from the image
for name in $(compgen -e); do
    case $name in {"|".join(PASSED_INTO_IMAGE)}) export "APPTAINERENV_$name=${{!name}}" ;; esac
done
"""


def _command(job: StageJob) -> str:
    if not job.image:
        return shlex.join(job.argv) + "\n"
    *words, image = job.container_command()
    lines = [""]
    for word in words:  # a line for each mount, for those who read the script
        lines = [*lines, word] if word == "--mount" else [*lines[:-1], f"{lines[-1]} {shlex.quote(word)}".strip()]
    # $folder is known on the node only; like every mount it is CSV, and mktemp's names need no quoting
    lines += ['--mount "type=bind,source=$folder,destination=$folder"', shlex.quote(image), shlex.join(job.argv)]
    return " \\\n    ".join(lines) + "\n"


def _warned(command: str) -> str:
    """Return the command with the signal before the time limit, which only the shell gets, passed on to it."""
    return f"""\
trap 'warned=1; kill -TERM "$stage"' TERM
{command.rstrip()} &
stage=$!
wait "$stage"; status=$?
while kill -0 "$stage" 2> /dev/null; do wait "$stage"; status=$?; done
[ -n "$warned" ] && [ "$status" -ne 0 ] && status={WARNED}
exit "$status"
"""


def hidden_paths(image: str | None, mounts: Mounts, parameters: object) -> list[str]:
    """Return the paths among a flow's parameters that lie in no folder that the job's image is shown.

    >>> values = {"roots": ["/data/P12"], "database": "/home/ann/picks", "remaps": ["/a=/b"]}
    >>> hidden_paths("/i.sif", Mounts(("/data",)), values)
    ['/home/ann/picks']
    """
    if not image:
        return []
    if isinstance(parameters, Mapping):
        return [path for value in parameters.values() for path in hidden_paths(image, mounts, value)]
    if isinstance(parameters, list | tuple):
        return [path for value in parameters for path in hidden_paths(image, mounts, value)]
    if not isinstance(parameters, str) or not parameters.startswith("/") or "=" in parameters:
        return []
    return [] if mounts.show(parameters) else [parameters]


def environment(job: StageJob, own: Mapping[str, str]) -> dict[str, str]:
    """Return what sbatch is started with, and what the job therefore sees. Secrets travel here, never in a file.

    Parameters
    ----------
    own
        The worker's environment. Where the worker itself runs inside a SLURM job, that job's settings are left out.
    """
    hidden = ("SLURM_", "SBATCH_", "PREFECT__", "APPTAINERENV_", "SINGULARITYENV_", *SECRETS_OF_SERVER)
    kept = {k: v for k, v in own.items() if k == "SLURM_CONF" or not k.startswith(hidden)}
    threads = str(job.request.cpus)  # else a library starts a thread per core of the node, on the few cores of the job
    given = {
        **{name: threads for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")},
        "PYTHONUNBUFFERED": "1",
        "PYTHONNOUSERSITE": "1",
        **{k: v for k, v in job.environment.items() if not k.startswith(SECRETS_OF_SERVER)},
    }
    if job.image:
        return kept | {f"APPTAINERENV_{k}": v for k, v in given.items()}
    return kept | given


def find(jobs: Iterable[QueuedJob], tag: object) -> int | None:
    """Return the newest job of a flow run or pack among those in the queue, by its comment; None for none."""
    return max((job.job_id for job in jobs if job.comment == f"{TAG}{tag}"), default=None)
