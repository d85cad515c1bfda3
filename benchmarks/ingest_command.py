"""How long the command `cryoflow ingest` takes for a project of a million picks, beside starfile and cryosparc-tools.

    python benchmarks/ingest_command.py                   # 1,000,000 picks on 5,000 micrographs
    python benchmarks/ingest_command.py --picks 100000 --only star

Two projects are written (and kept in `--folder`): a RELION refinement with 25 columns in its STAR file, and a CryoSPARC
refinement whose passthrough dataset has the uids in random order. Each command runs in a process of its own. Seconds
are of the processor (user and system), so that a busy machine counts for little, then by the clock; the start-up is
that of an ingest of 100 picks. Memory is the peak of the whole process. `starfile.read` and `Dataset.load` only load
their tables; the ingest also joins, sorts, subtracts shifts, folds duplicates and writes the database.

Modules are compiled to byte code first, as an installation has them. starfile installs pyarrow, which pandas imports
wherever it finds it: 40 MB that an installation of cryoflow does not have. The command runs without it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
INGEST = "import sys; sys.modules['pyarrow'] = None; from cryoflow.cli.main import main; sys.exit(main())"
LOAD_STAR = "import starfile, sys; print(len(starfile.read(sys.argv[1])['particles']))"
LOAD_CS = (
    "import sys; from cryosparc.dataset import Dataset\n"
    "a, b = (Dataset.load(name) for name in sys.argv[1:]); print(len(a.innerjoin(b)))"
)


class Run(NamedTuple):
    """One process: processor and clock seconds, and peak memory."""

    cpu_s: float
    clock_s: float
    peak_MB: float


def main() -> None:
    """Write the projects where they are not there, run the commands, print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--picks", type=int, default=1_000_000)
    parser.add_argument("--micrographs", type=int, default=5_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "cryoflow_benchmark_ingest")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each command, of which the best counts")
    parser.add_argument("--only", choices=("star", "cs"), help="one of the projects alone")
    parser.add_argument("--no-others", action="store_true", help="leave starfile and cryosparc-tools out")
    arguments = parser.parse_args()
    cryoflow = [sys.executable, "-c", INGEST, "ingest"]
    database = arguments.folder / "DB"
    options = ["--database", str(database), "--no-check-orientation", "--quiet"]
    small = prepared(arguments.folder, "star", 100, 5)
    start = best([*cryoflow, str(small), *options], arguments.repeats, database)
    print(f"{'':34} {'CPU s':>7} {'beyond start':>13} {'clock s':>8} {'peak MB':>8}")
    shown("start-up (100 picks)", start, None)
    for kind in ("star", "cs"):
        if arguments.only not in (None, kind):
            continue
        project = prepared(arguments.folder, kind, arguments.picks, arguments.micrographs)
        argv = [*cryoflow, str(project), *options]
        ours = best(argv, arguments.repeats, database)
        shown(f"cryoflow ingest ({kind})", ours, start)
        if not arguments.no_others:
            if kind == "star":
                theirs = best([sys.executable, "-c", LOAD_STAR, str(project / "Refine3D/job001/run_data.star")], 1)
                shown("starfile.read", theirs, None)
            else:
                names = ("J2/J2_001_particles.cs", "J2/J2_passthrough_particles.cs")
                theirs = best([sys.executable, "-c", LOAD_CS, *(str(project / name) for name in names)], 1)
                shown("cryosparc.dataset: load, innerjoin", theirs, None)
            ratios = theirs.cpu_s / ours.cpu_s, theirs.peak_MB / ours.peak_MB
            print("{:34} {:.1f} times the CPU and {:.1f} times the memory of cryoflow".format("", *ratios))


def prepared(folder: Path, kind: str, n_picks: int, n_micrographs: int) -> Path:
    """A project, written by a process of its own: what this one once held would count as memory of its children."""
    project = folder / f"{kind}_{n_picks}"
    if not project.exists():
        call = f"write_{kind}(Path({str(project)!r}), {n_picks}, {n_micrographs})"
        code = f"from pathlib import Path; import ingest_command; ingest_command.{call}"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=HERE)
    return project


def best(argv: Sequence[str], repeats: int, database: Path | None = None) -> Run:
    """The run with the fewest processor seconds; the database is removed before each."""
    runs = []
    for _ in range(repeats):
        if database is not None:
            shutil.rmtree(database, ignore_errors=True)
        started = time.perf_counter()
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, env=compiled())
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(argv)}: exit code {process.returncode}")
        clock_s = time.perf_counter() - started
        runs.append(Run(usage.ru_utime + usage.ru_stime, clock_s, usage.ru_maxrss / 1024))
    return min(runs)


def compiled() -> dict[str, str]:
    """The environment, with byte code written to and read from a folder of this benchmark."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**environment, "PYTHONPYCACHEPREFIX": str(Path(tempfile.gettempdir()) / "cryoflow_benchmark_bytecode")}


def shown(name: str, run: Run, start: Run | None) -> None:
    """Print one line of the table."""
    beyond = f"{run.cpu_s - start.cpu_s:13.2f}" if start else " " * 13
    print(f"{name:34} {run.cpu_s:7.2f} {beyond} {run.clock_s:8.2f} {run.peak_MB:8.0f}", flush=True)


def write_star(project: Path, n_picks: int, n_micrographs: int) -> None:
    """A RELION project of one refinement."""
    import read_star

    folder = project / "Refine3D" / "job001"
    folder.mkdir(parents=True)
    read_star.write(folder / "run_data.star", n_picks, n_micrographs)
    (folder / "RELION_JOB_EXIT_SUCCESS").touch()
    (project / "default_pipeline.star").write_text(
        "\n# version 50001\n\ndata_pipeline_general\n\n_rlnPipeLineJobCounter 2\n\n\n# version 50001\n\n"
        "data_pipeline_processes\n\nloop_\n_rlnPipeLineProcessName #1\n_rlnPipeLineProcessAlias #2\n"
        "_rlnPipeLineProcessTypeLabel #3\n_rlnPipeLineProcessStatusLabel #4\n"
        "Refine3D/job001/ None relion.refine3d Succeeded\n"
    )


def write_cs(project: Path, n_picks: int, n_micrographs: int) -> None:
    """A CryoSPARC project of one refinement, positions in a passthrough of another order."""
    subprocess.run(
        [sys.executable, str(HERE / "make_cs_project.py"), str(project), "npy", str(n_picks), str(n_micrographs)],
        check=True,
    )
    import numpy as np

    from cryoflow.formats.cs import read_cs
    from cryoflow.simulate.cryosparc_files import JobWriter, SimulatedJob, SimulatedOutput

    whole = read_cs(project / "J2" / "extracted_particles.cs")
    order = np.random.default_rng(3).permutation(n_picks)
    own = {name: values for name, values in whole.items() if name == "uid" or name.startswith("alignments3D/")}
    rest = {name: values[order] for name, values in whole.items() if name == "uid" or name not in own}
    shutil.rmtree(project / "J2")
    output = SimulatedOutput("particles", own, rest, own_file="J2_001_particles.cs")
    JobWriter(project, "4.5", "npy").write(
        SimulatedJob("J2", "homo_refine_new", [output], [("J1", "imported_micrographs")])
    )


if __name__ == "__main__":
    main()
