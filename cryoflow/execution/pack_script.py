"""The part of a job script that runs several stages in one job: a pack.

Each member of a pack has a log, a time limit, a temporary folder, and an end of its own. The job and the worker
exchange three small files beside a member's log: `.pack` (who is in the pack, written before the job is submitted),
`.cancel` (written by the worker: end this member) and `.end` (written by the job: exit status, node and seconds of this
member). So one member can be cancelled, or die, while the others go on, whatever the scheduler is.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryoflow.execution.slurm import EndedJob
from cryoflow.storage import inputs
from cryoflow.storage.files import write_atomically

GRACE_S = 30
"""Seconds between SIGTERM and SIGKILL for a member whose time is over or whose run was cancelled."""
WATCH_EVERY_S = 2
"""Seconds between two looks at a member's time and at the file that cancels it."""
LATE = 124
"""Exit status of a member that used up its own time limit."""


@dataclass(frozen=True)
class Member:
    """One stage of a pack.

    Attributes
    ----------
    log
        Absolute path of the member's log; the other files of the member stand beside it.
    environment
        Variables that only this member gets: those that name its flow run. They stand in the script.
    """

    log: Path
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Pack:
    """Members of one job.

    Attributes
    ----------
    at_once
        Number of members that run at the same time; the others follow.
    minutes
        Time limit of each member.
    gpus
        GPUs of each member.
    warn_s
        Seconds before the time limit at which a member gets SIGTERM and may write a checkpoint; 0 for none.
    """

    members: tuple[Member, ...]
    at_once: int
    minutes: int
    gpus: int = 0
    warn_s: int = 0

    @property
    def rounds(self) -> int:
        """Return how many members follow one another."""
        return -(-len(self.members) // self.at_once)


def pack_commands(pack: Pack, command: str, pass_variables: str, warned: int) -> str:
    """Return the shell of all members.

    Parameters
    ----------
    command
        Command of one member; a line break ends it.
    pass_variables
        Lines that hand variables to an image, or "".
    warned
        Exit status of a member that stopped at the warning.
    """
    names = list(dict.fromkeys(name for member in pack.members for name in member.environment))
    lines = [f"stems=({shlex.join(str(m.log.with_suffix('')) for m in pack.members)})"]
    for name in names:  # an array a variable: values may hold anything
        lines.append(f"values_{name}=({shlex.join(m.environment.get(name, '') for m in pack.members)})")
    exports = "\n".join(
        f'    export {name}="${{values_{name}[$1]}}" APPTAINERENV_{name}="${{values_{name}[$1]}}"' for name in names
    )
    script = _MEMBER.replace("@EXPORTS@", exports).replace("@PASS@", pass_variables.rstrip())
    script = script.replace("@COMMAND@", f"exec {command.rstrip()}")
    numbers = {
        "LIMIT": pack.minutes * 60 - pack.warn_s, "GRACE": pack.warn_s or GRACE_S, "WATCH": WATCH_EVERY_S,
        "AT_ONCE": pack.at_once, "GPUS": pack.gpus, "LATE": warned if pack.warn_s else LATE,
    }  # fmt: skip
    for name, number in numbers.items():
        script = script.replace(f"@{name}@", str(number))
    return "\n".join(lines) + "\n" + script


_MEMBER = """\
watch() {  # watch PID STEM: end a member whose time is over or whose run was cancelled
    local over=$((SECONDS + @LIMIT@))
    while [ "$SECONDS" -lt "$over" ] && [ ! -e "$2.cancel" ]; do sleep @WATCH@; done
    kill -TERM "$1" && sleep @GRACE@ && kill -KILL "$1"
}
member() (  # member INDEX SLOT: run one stage; its log and its end stand beside those of the others
    stem=${stems[$1]} mine=$folder/$1 begun=$SECONDS node=${SLURMD_NODENAME:-$(hostname)} stopped=
    trap 'stopped=1' TERM
    exec >> "$stem.log" 2>&1
    echo "cryoflow: job $job on $node, $(date '+%F %T')"
    mkdir "$mine" "$mine/tmp" "$mine/prefect" "$mine/cache"
    export TMPDIR="$mine/tmp" PREFECT_HOME="$mine/prefect" XDG_CACHE_HOME="$mine/cache" MPLCONFIGDIR="$mine/cache"
    [ -z "${CRYOFLOW_SCRATCH:-}" ] || export CRYOFLOW_SCRATCH="$mine/tmp"
    if [ @GPUS@ -gt 0 ] && [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then  # each slot has GPUs of its own
        IFS=, read -ra devices <<< "$CUDA_VISIBLE_DEVICES"
        devices=("${devices[@]:$(($2 * @GPUS@)):@GPUS@}")
        export CUDA_VISIBLE_DEVICES; CUDA_VISIBLE_DEVICES=$(IFS=,; echo "${devices[*]}")
    fi
@EXPORTS@
@PASS@
    status=143
    if [ ! -e "$stem.cancel" ]; then
        { @COMMAND@
        } &
        stage=$!
        watch "$stage" "$stem" > /dev/null 2>&1 &
        watcher=$!
        wait "$stage"; status=$?
        while kill -0 "$stage" 2> /dev/null; do wait "$stage"; status=$?; done  # a signal ends `wait` early
        kill "$watcher" 2> /dev/null
        [ "$status" = 0 ] || [ $((SECONDS - begun)) -lt @LIMIT@ ] || status=@LATE@
    fi
    rm -rf -- "$mine"
    # Where the whole job is being ended, SLURM's reason is better than that of the signal.
    if [ -n "$stopped" ] && [ "$status" != 0 ]; then exit 143; fi
    echo "$status $node $((SECONDS - begun))" > "$stem.end.new" && mv "$stem.end.new" "$stem.end"
)
slot() {  # slot NUMBER: run every @AT_ONCE@th member, one after the other
    stopped=
    trap 'stopped=1' TERM
    for ((i = $1; i < ${#stems[@]}; i += @AT_ONCE@)); do
        [ -n "$stopped" ] || member "$i" "$1"
    done
}
stopped=
trap 'stopped=1' TERM
for ((number = 0; number < @AT_ONCE@; number++)); do slot "$number" & done
while [ -n "$(jobs -pr)" ]; do wait; done
[ -z "$stopped" ] || exit 143
exit 0
"""


def write_pack(log: Path, pack_id: str, runs: Sequence[str]) -> None:
    """Write beside a member's log in which pack it is and which runs are with it; remove what an earlier job left."""
    for suffix in (".cancel", ".end"):
        log.with_suffix(suffix).unlink(missing_ok=True)
    write_atomically(log.with_suffix(".pack"), "\n".join([pack_id, *runs]) + "\n")


def forget_pack(log: Path) -> None:
    """Remove the files of an earlier job in which the run of this log was a member of a pack."""
    for suffix in (".pack", ".cancel", ".end"):
        log.with_suffix(suffix).unlink(missing_ok=True)


def pack_of(log: Path) -> tuple[str, tuple[str, ...]] | None:
    """Return the pack and its runs of the member with this log; None where the job runs one stage."""
    try:
        pack_id, *runs = inputs.read_text(log.with_suffix(".pack")).split()
    except (OSError, ValueError):
        return None
    return pack_id, tuple(runs)


def cancel_member(log: Path) -> None:
    """Ask the job to end one member."""
    write_atomically(log.with_suffix(".cancel"), "")


def end_of_member(job_id: int, log: Path) -> EndedJob | None:
    """Return how one member of a pack ended, as a job of its own; None as long as it has not."""
    try:
        status, node, seconds = inputs.read_text(log.with_suffix(".end")).split()
        code, elapsed_s = int(status), int(seconds)
    except (OSError, ValueError):
        return None
    state = "TIMEOUT" if code == LATE else "COMPLETED" if code == 0 else "FAILED"
    return EndedJob(job_id, state, code, None, node, elapsed_s)
