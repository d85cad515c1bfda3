"""Promise 6: nothing that a file carries is ever run."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import shutil
import stat
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from promise_tools import DIAMETER_A, make_entry
from test_promise_02_kill_anywhere import small_bundle

import cryoflow
from cryoflow.errors import BadInput, CryoflowError
from cryoflow.formats.cs import read_cs, read_cs_header
from cryoflow.formats.pick_tables import read_file
from cryoflow.preparation.model_folder import DESCRIPTION, WEIGHTS
from cryoflow.projects.tables import read_table_of_picks
from cryoflow.storage.fingerprints import checksum
from cryoflow.storage.sealing import sealed
from cryoflow.unpicker.bundle import ModelBundle

ROOT = Path(cryoflow.__file__).parent.parent
SOURCES = [p for folder in ("cryoflow", "flows") for p in sorted((ROOT / folder).rglob("*.py"))]

FORBIDDEN_CALLS = {
    *(
        "eval",
        "exec",
        "compile",
        "execfile",
        "os.system",
        "os.popen",
        "subprocess.getoutput",
        "subprocess.getstatusoutput",
    ),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open", "joblib.load"),
    *("dill.load", "dill.loads", "cloudpickle.load", "cloudpickle.loads", "pd.read_pickle", "pandas.read_pickle"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "torch.load", "np.fromfile.object"),
    *(
        "keras.models.load_model",
        "keras.saving.load_model",
        "load_model",
        "model_from_json",
        "deserialize_keras_object",
    ),
    *("keras.models.model_from_json", "enable_unsafe_deserialization", "keras.config.enable_unsafe_deserialization"),
    *("xml.etree.ElementTree.parse", "runpy.run_path", "runpy.run_module", "code.interact"),
}
FORBIDDEN_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "imp", "runpy", "code"}
DYNAMIC_IMPORTS = {
    "cryoflow/__init__.py": "its own public names, by its own table",
    "cryoflow/cluster/deployments.py": "the flows of its own table of stages",
    "cryoflow/formats/pick_tables/__init__.py": "modules of its own package",
    "cryoflow/cluster/probe.py": "what an image should hold, by the names of its own list",
    "cryoflow/ingest/__init__.py": "modules of its own package, by the names of its own table",
    "cryoflow/simulate/__init__.py": "modules of its own package, by the names of its own table",
    "cryoflow/projects/__init__.py": "the readers, by the two names of its own table",
    "cryoflow/pickers/registry.py": "modules of its own package, and entry points of installed packages",
}
"""Where a module is imported by a name that is made at run time, and whence that name comes: never from a file."""

RUN_AS_MAIN = {"cryoflow/cluster/start_stage.py": "Prefect's engine, by a constant name, as `python -m` would"}
"""Where `runpy` runs a module of an installed package whose name stands in the source."""


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def problems_of(source: str, name: str) -> list[str]:
    """What in a source file could run what data carries."""
    found = []
    for node in ast.walk(ast.parse(source)):
        where = f"{name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            allowed = {"runpy"} if name in RUN_AS_MAIN else set()
            found += [f"{where} imports {m}" for m in modules if m.split(".")[0] in FORBIDDEN_IMPORTS - allowed]
        if not isinstance(node, ast.Call):
            continue
        called = dotted(node.func)
        constant = all(isinstance(a, ast.Constant) for a in node.args)
        if called == "runpy.run_module" and name in RUN_AS_MAIN and constant:
            continue
        if called in FORBIDDEN_CALLS or called.split(".")[-1] in ("load_model", "unsafe_load"):
            found.append(f"{where} calls {called}")
        imports = called.endswith("import_module") or called == "__import__"
        if imports and not constant and name not in DYNAMIC_IMPORTS:
            found.append(f"{where} imports a module by a name made at run time")
        for keyword in node.keywords:
            value = keyword.value.value if isinstance(keyword.value, ast.Constant) else "made at run time"
            if keyword.arg == "shell" and value is not False:
                found.append(f"{where} starts a shell")
            if keyword.arg == "allow_pickle" and value is not False:
                found.append(f"{where} allows pickles")
        if called in ("np.load", "numpy.load") and not any(k.arg == "allow_pickle" for k in node.keywords):
            found.append(f"{where} loads arrays without saying allow_pickle=False")
        if called.startswith("subprocess.") and name not in (
            "cryoflow/system/programs.py",
            "cryoflow/cluster/supervisor.py",
        ):
            found.append(f"{where} starts a program past cryoflow.system.programs")
        if called == "json.dumps" and name.endswith(".html"):
            found.append(where)
    return found


def test_no_call_in_our_code_can_run_what_a_file_carries() -> None:
    assert len(SOURCES) > 100
    found = [p for path in SOURCES for p in problems_of(path.read_text(), str(path.relative_to(ROOT)))]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "np.load(p, allow_pickle=True)",
        "np.load(p)",
        "subprocess.run(c, shell=True)",
        "subprocess.run(['ls'])",
        "os.system('ls')",
        "eval(text)",
        "yaml.load(text)",
        "keras.models.load_model(path)",
        "keras.saving.load_model(path, safe_mode=True)",
        "importlib.import_module(name)",
        "import runpy",
        "runpy.run_module('json')",
    ],
)
def test_the_search_finds_what_it_looks_for(line: str) -> None:
    assert problems_of(line, "x.py") != []


@pytest.mark.parametrize("name", RUN_AS_MAIN)
@pytest.mark.parametrize("line", ["runpy.run_module(name)", "runpy.run_path('x.py')", "import pickle"])
def test_a_file_that_may_run_one_module_may_run_nothing_else(name: str, line: str) -> None:
    assert problems_of(line, name) != []


# ---- canaries -----------------------------------------------------------------------------------------------------


class Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.file),)


def test_the_canary_sings_when_it_is_unpickled(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Canary(tmp_path / "sang")))
    assert (tmp_path / "sang").is_dir()


def object_array(canary: Path) -> bytes:
    raw = io.BytesIO()
    np.save(
        raw, np.array([(1, Canary(canary))], [("uid", "<u8"), ("location/micrograph_path", "O")]), allow_pickle=True
    )
    return raw.getvalue()


@pytest.mark.parametrize("ending", [".cs", ".npy", ".star", ".txt", ".csv", ".box", ".mrc"])
def test_a_pickled_dataset_is_refused_by_every_reader_under_every_name(ending: str, tmp_path: Path) -> None:
    from cryoflow.formats.star import read_blocks
    from cryoflow.micrographs.image import read_micrograph

    path = tmp_path / f"a{ending}"
    path.write_bytes(object_array(tmp_path / "sang"))
    for read in (read_cs, read_cs_header, read_table_of_picks, read_file, read_blocks, read_micrograph):
        try:
            read(path)
        except CryoflowError:
            continue
    with pytest.raises(BadInput, match="pickled"):
        read_cs(path)
    assert not (tmp_path / "sang").exists()


def with_weights(folder: Path, content: bytes) -> Path:
    """A bundle whose weights are other bytes, with a checksum that fits: made by somebody who knows the format."""
    small_bundle().save(folder)
    (folder / WEIGHTS).write_bytes(content)
    sums = json.loads((folder / DESCRIPTION).read_text())["checksums"]
    describe(folder, {"checksums": sums | {WEIGHTS: checksum(folder / WEIGHTS)}})
    return folder


def describe(folder: Path, changes: dict[str, object]) -> None:
    """Change the description of a bundle, and seal it again as somebody does who knows the format."""
    record = json.loads((folder / DESCRIPTION).read_text()) | changes
    del record["checksum"]
    (folder / DESCRIPTION).write_text(sealed(record))


def test_a_model_with_pickled_arrays_or_a_bare_pickle_is_refused(tmp_path: Path) -> None:
    arrays = io.BytesIO()
    with zipfile.ZipFile(arrays, "w") as archive:
        raw = io.BytesIO()
        np.save(raw, np.array([Canary(tmp_path / "sang")], object), allow_pickle=True)
        archive.writestr("a/kernel.npy", raw.getvalue())
    for number, content in enumerate((arrays.getvalue(), pickle.dumps(Canary(tmp_path / "sang")))):
        with pytest.raises(BadInput, match="cannot be read as a model"):
            ModelBundle.load(with_weights(tmp_path / str(number), content))
    assert not (tmp_path / "sang").exists()


def test_a_model_that_names_a_class_a_lambda_or_another_folder_is_refused(tmp_path: Path) -> None:
    """What a .keras file could carry: a lambda as base64 of marshalled code, a class to import, a custom object."""
    outside = tmp_path / "outside.txt"
    outside.write_text("a file of somebody else, of which a checksum would tell what it holds")
    for number, change in enumerate(
        (
            {"architecture": {"name": "Lambda", "input_px": 12, "n_channels": 2, "function": "4wEAAAA="}},
            {"architecture": {"name": "os:system", "input_px": 12, "n_channels": 2}},
            {"architecture": {"module": "os", "class_name": "system", "config": {"command": "touch sang"}}},
            {"preprocessing": {"kind": "os.system", "command": "touch sang"}},
            {"checksums": {"../outside.txt": checksum(outside)}},
            {"checksums": {str(outside): checksum(outside)}},
        )
    ):
        folder = tmp_path / str(number)
        small_bundle().save(folder)
        sums = json.loads((folder / DESCRIPTION).read_text())["checksums"]
        describe(folder, change | ({"checksums": sums | change["checksums"]} if "checksums" in change else {}))
        with pytest.raises(BadInput, match="leads outside" if "checksums" in change else None):
            assert ModelBundle.load(folder).network
    assert not list(tmp_path.rglob("sang"))


def test_weights_that_claim_more_than_there_is_are_refused(tmp_path: Path) -> None:
    """An array of 10^12 numbers in its header, and one that unpacks to a thousand times its size."""
    claims = io.BytesIO()
    np.lib.format.write_array_header_1_0(claims, {"descr": "<f4", "fortran_order": False, "shape": (10**12,)})  # type: ignore[arg-type]
    zeros = io.BytesIO()
    np.save(zeros, np.zeros(10**6, np.float32))
    for number, (content, packing) in enumerate(
        ((claims.getvalue(), zipfile.ZIP_STORED), (zeros.getvalue(), zipfile.ZIP_DEFLATED))
    ):
        raw = io.BytesIO()
        with zipfile.ZipFile(raw, "w", packing) as archive:
            archive.writestr("a/kernel.npy", content)
        with pytest.raises(BadInput, match="cannot be read as a model"):
            ModelBundle.load(with_weights(tmp_path / str(number), raw.getvalue()))
    with pytest.raises(BadInput, match="cannot be read as a model"):
        ModelBundle.load(with_weights(tmp_path / "torn", raw.getvalue()[:-30]))


def test_a_model_whose_description_vouches_for_nothing_is_refused(tmp_path: Path) -> None:
    small_bundle().save(tmp_path / "m")
    describe(tmp_path / "m", {"checksums": {}})
    with pytest.raises(BadInput, match="was changed"):
        ModelBundle.load(tmp_path / "m")


def test_a_keras_file_is_no_model(tmp_path: Path) -> None:
    small_bundle().save(tmp_path / "m")
    (tmp_path / "m" / DESCRIPTION).unlink()
    (tmp_path / "m" / "model.keras").write_bytes(b"PK\x03\x04")
    with pytest.raises(BadInput, match="is no model"):
        ModelBundle.load(tmp_path / "m")


# ---- names in scripts ---------------------------------------------------------------------------------------------

HOSTILE = [
    '"$(touch hacked)";',
    "`touch hacked`",
    "a'; touch hacked; '",
    "-rf $HOME",
    "a\\\n#SBATCH x",
    "%j $(touch hacked)",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_picker_script_in_a_hostile_folder_runs_its_program_and_nothing_else(name: str, tmp_path: Path) -> None:
    """Really run by bash, with a stub in place of the picker that notes its arguments."""
    from cryoflow.execution.executor import Executor, Step, WorkFolder, write_script
    from cryoflow.execution.resources import Resources

    home = tmp_path / name
    home.mkdir()
    (home / "manifest.tsv").write_text("# cryoflow training set; $(touch hacked)\n")  # by which a script knows its home
    tools = tmp_path / "tools"
    tools.mkdir()
    stub = tools / "picker"
    stub.write_text('#!/bin/sh\nprintf "%s\\0" "$@" > seen; echo done > made\n')
    stub.chmod(0o755)
    step = Step(f"Train {name.splitlines()[0]}", ("picker", "--model", name, "micrographs/*.mrc"), ("made",))
    script = write_script(
        [step], Executor(resources=Resources((0,), 2)), WorkFolder(home, "manifest.tsv"), "train", "train.log"
    )
    assert not script.stat().st_mode & stat.S_IWOTH
    env = {"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(["bash", str(script)], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (home / "seen").read_bytes().decode().split("\0")[:-1] == ["--model", name, "micrographs/*.mrc"]
    assert not list(tmp_path.rglob("hacked"))
    for line in script.read_text().splitlines():
        assert not (line.startswith("#SBATCH") and line.split()[-1] == "x")


@pytest.mark.parametrize("name", [n for n in HOSTILE if "\n" not in n])
def test_a_job_of_the_worker_with_hostile_names_runs_apptainer_and_nothing_else(name: str, tmp_path: Path) -> None:
    from cryoflow.cluster.job import SlurmJobConfiguration
    from cryoflow.execution.stage_script import environment, script

    job = SlurmJobConfiguration(
        name=name,
        image=f"/images/{name}.sif",
        partition=name,
        read_only=[f"{tmp_path}/{name}"],
        scratch=str(tmp_path),
        command=None,
        env={"SECRET": "tok-123"},
    )
    stage = job.stage_job(name=name, flow_run_id="1", log=tmp_path / "job.log")
    text = script(stage)
    assert "tok-123" not in text
    assert environment(stage, {})["APPTAINERENV_SECRET"] == "tok-123"
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "apptainer").write_text('#!/bin/sh\nprintf "%s\\0" "$@" > "$SEEN"\n')
    (tools / "apptainer").chmod(0o755)
    (tmp_path / "job.sh").write_text(text)
    env = {"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(tmp_path), "SLURM_JOB_ID": "7", "SEEN": str(tmp_path / "seen")}
    done = subprocess.run(["bash", "job.sh"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    words = (tmp_path / "seen").read_bytes().decode().split("\0")
    assert f"/images/{name}.sif" in words
    assert not list(tmp_path.rglob("hacked"))
    if shutil.which("sbatch"):  # what SLURM's own parser makes of the directives is tested in tests/cluster
        assert "#SBATCH" in text


def test_a_hostile_program_name_or_argument_starts_no_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cryoflow.system import programs

    monkeypatch.chdir(tmp_path)
    said = programs.run(["printf", "%s|", *HOSTILE])
    assert said.split("|")[:-1] == HOSTILE
    assert list(tmp_path.iterdir()) == []


def test_results_of_flows_are_json_where_they_are_kept(tmp_path: Path, prefect_server: None) -> None:
    """A flow that keeps its result, as Prefect has it by default once `flows` is imported: text, no pickle."""
    import flows

    # isort: split
    from prefect import flow
    from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

    @flow(persist_result=True)
    def keeps() -> dict[str, list[int]]:
        return {"numbers": [1, 2]}

    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: tmp_path}):
        assert keeps() == {"numbers": [1, 2]}
    (kept,) = (p for p in tmp_path.rglob("*") if p.is_file())
    assert json.loads(kept.read_text()) == {"numbers": [1, 2]}
    assert flows.PREFECT_DEFAULTS["PREFECT_RESULTS_PERSIST_BY_DEFAULT"] == "false"
    assert not [p for p in (ROOT / "flows").glob("*.py") if "result_serializer" in p.read_text()]


def test_an_export_holds_nothing_that_runs_but_what_the_user_starts(tmp_path: Path) -> None:
    from cryoflow.pickers.training_sets.export import export

    folder = export("topaz", [make_entry(tmp_path)], tmp_path / "set", diameter_A=DIAMETER_A, force=True).folder
    assert [p for p in folder.rglob("*") if p.is_file() and not p.is_symlink() and p.stat().st_mode & 0o111] == []
