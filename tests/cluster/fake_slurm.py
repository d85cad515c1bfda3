"""Stands in for sbatch, squeue, sacct, scontrol and scancel: the queue is a folder, one JSON file a job.

FAKE_SLURM names the folder. A file `silent` in it makes every command fail as if the controller were away, `no-sacct`
makes sacct fail, `denied` makes scancel fail, `limit` holds how many jobs a user may submit, `refusal` what sbatch
prints where it is reached, `next-sbatch` holds an error that sbatch gives once; with `lingers` a cancelled job stays in
the queue until the test ends it. Every call is noted in `calls`, its start in `starts`. `sbatch.lock` is locked by the
sbatch that runs, `jobs.lock` by whoever reads a job and writes it back: scancel, and the test.
"""

import fcntl
import json
import os
import re
import sys
from pathlib import Path

folder = Path(os.environ["FAKE_SLURM"])
name, *arguments = sys.argv[1:]
ENDED = {"COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"}


def fail(text: str) -> None:
    print(f"{name}: error: {text}", file=sys.stderr)
    sys.exit(1)


def jobs() -> dict[int, dict]:
    return {int(f.stem): json.loads(f.read_text()) for f in sorted(folder.glob("*.json"))}


def write(number: int, job: dict) -> None:
    hidden = folder / f".{number}.{os.getpid()}"
    hidden.write_text(json.dumps(job))
    hidden.rename(folder / f"{number}.json")


def started_s() -> float:
    """Return when the kernel started this process, in seconds since boot: under load Python begins much later."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


with (folder / "calls").open("a") as calls:
    print(name, *arguments, file=calls)
with (folder / "starts").open("a") as starts:
    print(name, started_s(), file=starts)
if (folder / "silent").exists():
    fail("Unable to contact slurm controller (connect failure)")
if name == "sbatch":
    # Held until this process ends: several sbatch run at once, and each counts the jobs and takes the next number.
    fcntl.flock(os.open(folder / "sbatch.lock", os.O_CREAT | os.O_WRONLY), fcntl.LOCK_EX)
    lost_answer = ""
    if (folder / "next-sbatch").exists():
        lost_answer = (folder / "next-sbatch").read_text()
        (folder / "next-sbatch").unlink()
        if not lost_answer.startswith("submitted:"):
            fail(lost_answer)
    waiting = [job for job in jobs().values() if job["state"] not in ENDED]
    if (folder / "limit").exists() and len(waiting) >= int((folder / "limit").read_text()):
        fail((folder / "refusal").read_text())
    text = Path(arguments[-1]).read_text()
    number = 100 + len(list(folder.glob("*.json")))
    comments = re.findall(r"--comment=([^\s\"]+)", text)
    output = re.search(r"--output=(.+?)\"?$", text, re.M)[1].replace("%%", "%")
    wanted = {k: v for k, v in os.environ.items() if "PREFECT__FLOW_RUN_ID" in k}
    write(
        number,
        {"state": "PENDING", "reason": "Priority", "comment": "".join(comments), "output": output, "env": wanted},
    )
    if lost_answer:
        fail(lost_answer)
    print("Welcome to the cluster!")
    print(number)
elif name == "squeue":
    for number, job in jobs().items():
        if job["state"] not in ENDED:
            print(f"{number}|{job['state']}|{job['reason']}|{job['comment']}")
elif name == "sacct":
    if (folder / "no-sacct").exists():
        fail("Slurm accounting storage is disabled")
    wanted = next(a for a in arguments if a.startswith("--jobs=")).removeprefix("--jobs=").split(",")
    for number, job in jobs().items():
        if str(number) in wanted and not job.get("purged"):
            code, _, signal = job.get("exit", "0:0").partition(":")
            code = int(code) - 128 if int(code) > 128 else code  # as SLURM's does
            print(f"{number}|{job['state']}|{code}:{signal}|node1|61")
elif name == "scontrol":
    number = int(arguments[-1])
    if number not in jobs() or jobs()[number].get("purged"):
        fail("Invalid job id specified")
    job = jobs()[number]
    print(
        f"JobId={number} JobName=x JobState=COMPLETED y JobState={job['state']} Reason=None "
        f"ExitCode={job.get('exit', '0:0')} RunTime=00:01:01 NodeList=node1 Comment={job['comment']} StdOut=/x"
    )
elif name == "scancel":
    fcntl.flock(os.open(folder / "jobs.lock", os.O_CREAT | os.O_WRONLY), fcntl.LOCK_EX)  # until this process ends
    forgotten = [a for a in arguments if a.isdigit() and jobs().get(int(a), {"purged": True}).get("purged")]
    for number, job in jobs().items():
        if str(number) in arguments and job["state"] not in ENDED:
            lingers = (folder / "lingers").exists()
            write(number, job | ({"state": "COMPLETING"} if lingers else {"state": "CANCELLED", "exit": "0:15"}))
    if (folder / "denied").exists():
        fail("Kill job error on job id 1: Access/permission denied")
    if forgotten:
        fail(f"Kill job error on job id {forgotten[0]}: Invalid job id specified")
