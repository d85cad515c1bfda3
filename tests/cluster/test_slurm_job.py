"""A job as text: the form's checks, quoting, mounts, environment, and the whole script as a golden file."""

from __future__ import annotations

import csv
import os
import shlex
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cryoflow.cluster.job import SlurmJobConfiguration
from cryoflow.cluster.slurm_worker import SlurmWorker
from cryoflow.errors import BadInput
from cryoflow.execution import stage_script
from cryoflow.execution.job_script import job_name
from cryoflow.execution.quoting import directive, mount
from cryoflow.execution.resources import JobRequest

GOLDEN = Path(__file__).parents[1] / "execution" / "data"


def full_job(**changes: object) -> SlurmJobConfiguration:
    values: dict[str, object] = {
        "image": "/opt/cryo flow/gpu.sif",
        "partition": "gpu",
        "account": "cryo-em",
        "qos": "normal",
        "gpus": 2,
        "gpu_type": "a100",
        "cpus": 8,
        "memory_gb": 30.5,
        "memory_factor": 2,
        "time_minutes": 90,
        "time_factor": 1.5,
        "constraint": "avx512&nvme",
        "read_only": ['/data/It\'s "P12", 50%: $HOME'],
        "read_write": ['/data/It\'s "P12", 50%: $HOME/picks'],
        "scratch": "/scratch/fast disk",
        "setup": "module load apptainer",
        "extra_directives": ["--reservation=cryo em", "--exclusive"],
        "log_folder": "/shared/lo\"gs'/50%",
    }
    return SlurmJobConfiguration.model_validate(values | changes)


def script_of(job: SlurmJobConfiguration) -> str:
    return stage_script.script(stage_job(job))


def stage_job(job: SlurmJobConfiguration) -> stage_script.StageJob:
    return job.stage_job(
        name="ingest · P12 | 2026",
        flow_run_id="0f8fad5b-d9cb-469f-a165-70867728950e",
        log=Path(job.log_folder) / "ingest.log",
    )


@pytest.mark.parametrize(
    ("golden", "changes"),
    [
        ("container.sbatch", {}),
        (
            "bare.sbatch",
            {
                "image": None,
                "gpus": 0,
                "gpu_type": None,
                "scratch": None,
                "command": "/venv/bin/python -m prefect.engine",
            },
        ),
    ],
)
def test_the_script_is_the_golden_one(golden: str, changes: dict[str, object]) -> None:
    text = script_of(full_job(**changes))
    if os.environ.get("WRITE_GOLDEN"):
        (GOLDEN / golden).write_text(text)
    assert text == (GOLDEN / golden).read_text()


def test_bash_accepts_the_script(tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    script.write_text(script_of(full_job()))
    assert subprocess.run(["bash", "-n", str(script)], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"partition": "gpu\n#SBATCH --uid=0"},
        {"account": "a\rb"},
        {"read_only": ["/data/new\nline"]},
        {"log_folder": "/logs/new\nline"},
        {"extra_directives": ["--nice\n--uid=0"]},
    ],
)
def test_a_line_break_is_refused_wherever_it_could_reach_a_directive(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="line break"):
        full_job(**changes)


def test_a_line_break_in_a_runs_name_does_not_reach_the_script() -> None:
    assert job_name("a\n#SBATCH --uid=0|b=c") == "a #SBATCH --uid 0 b c"
    with pytest.raises(BadInput, match="line break"):
        directive("--comment=a\nb")


@pytest.mark.parametrize(
    "option",
    [
        "--output=/elsewhere",
        "--requeue",
        "--wrap=ls",
        "-n 4",
        "exclusive",
        "--array=1-5",
        "--clusters=a,b",
        "--cluster=a",
        "--depend=singleton",
        "--hold",
        "--mem-per-cpu=1G",
        "--mem-per-gpu=1G",
        "--dependency=singleton",
        "--signal=B:USR1@60",
        "--nodes=2",
    ],
)
def test_directives_that_would_hide_the_job_from_the_worker_are_refused(option: str) -> None:
    with pytest.raises(ValidationError, match="extra_directives"):
        full_job(extra_directives=[option])


@pytest.mark.parametrize("folder", ["relative/logs", "/logs\\x"])
def test_a_log_folder_that_sbatch_would_misread_is_refused(folder: str) -> None:
    with pytest.raises(ValidationError, match="log_folder"):
        full_job(log_folder=folder)


@given(st.text(st.characters(blacklist_characters="\n\r\0", blacklist_categories=["Cs"]), min_size=1))
def test_any_folder_survives_the_mounts_csv(folder: str) -> None:
    text = mount(f"/{folder}", read_only_flag="ro")
    assert next(csv.reader([text])) == ["type=bind", f"source=/{folder}", f"destination=/{folder}", "ro"]


def test_inner_folders_are_mounted_after_outer_ones_and_only_projects_are_read_only() -> None:
    words = stage_job(full_job(read_only=["/data", "/data/out/raw"], read_write=["/data/out"])).container_command()
    mounts = [words[i + 1] for i, word in enumerate(words) if word == "--mount"]
    assert [m.split(",")[1] for m in mounts] == ["source=/data", "source=/data/out", "source=/data/out/raw"]
    assert [m.endswith(",ro") for m in mounts] == [True, False, True]


def test_nv_is_given_with_gpus_only() -> None:
    assert "--nv" in stage_job(full_job(gpus=1)).container_command()
    assert "--nv" not in stage_job(full_job(gpus=0)).container_command()


def test_growth_multiplies_memory_and_time() -> None:
    text = script_of(full_job())
    assert "#SBATCH --mem=62464M\n" in text
    assert "#SBATCH --time=135\n" in text


def test_the_flow_runs_in_one_interpreter_unless_a_command_is_given() -> None:
    assert full_job().argv == ["python", "-m", "cryoflow.cluster.start_stage"]
    assert full_job(command="prefect flow-run execute").argv == ["python", "-m", "cryoflow.cluster.start_stage"]
    assert full_job(command="my 'own command'").argv == ["my", "own command"]


def test_secrets_travel_in_the_environment_and_not_in_the_script() -> None:
    job = full_job(env={"PREFECT_API_AUTH_STRING": "user:geheim"})
    assert "geheim" not in script_of(job)
    assert stage_script.environment(stage_job(job), {})["APPTAINERENV_PREFECT_API_AUTH_STRING"] == "user:geheim"
    assert stage_script.environment(stage_job(full_job(image=None, env={"KEY": "geheim"})), {})["KEY"] == "geheim"


def test_what_only_the_server_needs_is_in_no_job() -> None:
    url = "postgresql+asyncpg://u:geheim@h/db"
    secret = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": url, "PREFECT_SERVER_API_AUTH_STRING": "u:geheim"}
    for job in (full_job(env=secret), full_job(env=secret, image=None)):
        assert "geheim" not in str(stage_script.environment(stage_job(job), secret | {"PATH": "/bin"}))


def test_the_settings_of_a_job_that_the_worker_runs_in_are_not_handed_on() -> None:
    own = {"PATH": "/bin", "SLURM_CONF": "/etc/s", "SLURM_MEM_PER_NODE": "1", "SBATCH_QOS": "x", "APPTAINERENV_A": "b"}
    kept = stage_script.environment(stage_job(full_job()), own)
    assert kept["PATH"] == "/bin"
    assert kept["SLURM_CONF"] == "/etc/s"
    assert not {"SLURM_MEM_PER_NODE", "SBATCH_QOS", "APPTAINERENV_A"} & set(kept)


def test_numeric_libraries_get_as_many_threads_as_the_job_has_cpus() -> None:
    assert stage_script.environment(stage_job(full_job(cpus=3)), {})["APPTAINERENV_OMP_NUM_THREADS"] == "3"
    assert (
        stage_script.environment(stage_job(full_job(env={"OMP_NUM_THREADS": "1"})), {})["APPTAINERENV_OMP_NUM_THREADS"]
        == "1"
    )


def test_the_script_hands_slurm_and_cuda_variables_into_the_image_and_removes_its_folder(tmp_path: Path) -> None:
    """Run the script with a stand-in for apptainer that shows what it got."""
    apptainer = tmp_path / "apptainer"
    apptainer.write_text('#!/bin/bash\nprintf "%s\\n" "$@"; env | grep ^APPTAINERENV_; exit 7\n')
    apptainer.chmod(0o755)
    scratch = tmp_path / "scratch disk"
    scratch.mkdir()
    job = full_job(apptainer=str(apptainer), scratch=str(scratch), setup="echo set up")
    environment = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "7", "SLURM_X": "a b", "CUDA_VISIBLE_DEVICES": "1"}
    ran = subprocess.run(["bash", "-c", script_of(job)], env=environment, capture_output=True, text=True, check=False)
    lines = ran.stdout.splitlines()
    assert ran.returncode == 7
    assert lines[1] == "set up"
    assert "APPTAINERENV_SLURM_X=a b" in lines
    assert "APPTAINERENV_CUDA_VISIBLE_DEVICES=1" in lines
    assert any(line.startswith(f"APPTAINERENV_CRYOFLOW_SCRATCH={scratch}/cryoflow-job-7.") for line in lines)
    assert "/opt/cryo flow/gpu.sif" in lines
    assert lines[lines.index("/opt/cryo flow/gpu.sif") - 1].startswith(f"type=bind,source={scratch}/cryoflow-job-7.")
    assert list(scratch.iterdir()) == []


def test_what_a_killed_job_left_in_scratch_goes_with_the_next_job_and_what_a_running_one_has_stays(
    tmp_path: Path,
) -> None:
    started = tmp_path / "started"
    apptainer = tmp_path / "apptainer"
    apptainer.write_text(
        f'#!/bin/bash\necho "$SLURM_JOB_ID" >> {shlex.quote(str(started))}; [ $SLURM_JOB_ID = 9 ] || sleep 60\n'
    )
    apptainer.chmod(0o755)
    scratch = tmp_path / "scratch disk"
    scratch.mkdir()
    text = script_of(full_job(apptainer=str(apptainer), scratch=str(scratch), setup=""))

    def start(number: str) -> subprocess.Popen[bytes]:
        environment = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": number}
        return subprocess.Popen(
            ["bash", "-c", text], env=environment, start_new_session=True, stdout=subprocess.DEVNULL
        )

    def folders() -> list[str]:
        return sorted(p.name.partition(".")[0] for p in scratch.iterdir())

    killed, running = start("7"), start("8")
    try:
        end = time.monotonic() + 20
        while not started.exists() or len(started.read_text().split()) < 2:
            assert time.monotonic() < end
            time.sleep(0.05)
        (next(scratch.glob("cryoflow-job-7.*")) / "tmp" / "micrograph.mrc").write_bytes(b"left")
        os.killpg(killed.pid, signal.SIGKILL)  # no trap runs
        killed.wait()
        assert folders() == ["cryoflow-job-7", "cryoflow-job-8"]
        assert start("9").wait(20) == 0
        assert folders() == ["cryoflow-job-8"]
    finally:
        for job in (killed, running):
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)
                job.wait()


def left_by_a_job(number: str, node: str = os.uname().nodename) -> str:
    return f"cryoflow-job-{number}.{node.replace('.', '-')}.killed"


def test_a_job_removes_what_a_killed_one_left_at_any_moment_and_nothing_of_other_nodes(tmp_path: Path) -> None:
    for moment in ("just made", "half removed"):
        (tmp_path / left_by_a_job(moment)).mkdir()
    (tmp_path / left_by_a_job("half removed") / "tmp").mkdir()
    elsewhere = left_by_a_job("7", "another-node"), left_by_a_job("7", f"other.{os.uname().nodename}")
    for name in elsewhere:  # `scratch` may be a file system that nodes share, and locks hold on one node
        (tmp_path / name).mkdir()
    mine = tmp_path / "mine"
    mine.mkdir()
    job = stage_script.StageJob(JobRequest("x"), ("true",), scratch=str(tmp_path))
    environment = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "8", "folder": str(mine)}  # sbatch hands on any variable
    ran = subprocess.run(["bash", "-c", stage_script.script(job)], env=environment, capture_output=True, check=True)
    assert ran.stderr == b""
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted((*elsewhere, "mine"))


def test_every_field_of_the_form_says_what_it_is_and_is_used_by_the_template() -> None:
    template = SlurmWorker.get_default_base_job_template()
    fields = template["variables"]["properties"]
    assert set(fields) == set(template["job_configuration"])
    wanted = {"image", "partition", "account", "qos", "gpus", "cpus", "memory_gb", "time_minutes", "constraint"}
    wanted |= {"read_only", "read_write", "env", "extra_directives", "log_folder"}
    assert wanted <= set(fields)
    assert [name for name, field in fields.items() if not field.get("description")] == []


def test_values_of_the_pool_are_overlaid_by_those_of_a_run(prefect_server: None) -> None:
    import asyncio

    template = SlurmWorker.get_default_base_job_template()
    template["variables"]["properties"]["partition"]["default"] = "cpu"
    job = asyncio.run(SlurmJobConfiguration.from_template_and_values(template, {"cpus": 4, "gpus": 1}))
    assert (job.partition, job.cpus, job.gpus, job.image) == ("cpu", 4, 1, None)


def test_shlex_reads_the_command_as_it_was_meant() -> None:
    text = script_of(full_job())
    command = text[text.index("apptainer exec") :].replace("\\\n", " ")
    words = shlex.split(command)
    assert words[:2] == ["apptainer", "exec"]
    assert words[-4:] == ["/opt/cryo flow/gpu.sif", "python", "-m", "cryoflow.cluster.start_stage"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can run a job as other accounts")
def test_jobs_of_three_accounts_share_a_node_and_its_scratch() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o1777)
        command = 'touch "$TMPDIR/mine" "$PREFECT_HOME/mine" && ls "$CRYOFLOW_SCRATCH" && sleep 0.3'
        job = stage_script.StageJob(JobRequest("x"), ("bash", "-c", command), scratch=name)
        left = folder / left_by_a_job("6")  # of a killed job of root's: others cannot remove it
        (left / "tmp").mkdir(parents=True)
        text = stage_script.script(job)
        words = ["bash", "-c", text]
        jobs = [
            subprocess.Popen(
                ["runuser", "-u", account, "--", *words],
                env={"PATH": os.environ["PATH"], "SLURM_JOB_ID": str(number)},
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/", text=True,
            )
            for number, account in enumerate(("nobody", "games", "root") * 2)
        ]  # fmt: skip
        for each in jobs:
            printed = each.communicate(timeout=60)[0]
            assert each.returncode == 0, printed
            assert printed.splitlines()[1:] == ["mine"]
        assert list(folder.iterdir()) == []
