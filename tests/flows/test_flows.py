"""The stages as flows: what they write, that they resume, and what a person sees of them in Prefect."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prefect import task
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import Artifact, FlowRun
from prefect.utilities.callables import parameter_schema
from written_files import written_files

from cryoflow.database import Database
from cryoflow.errors import BadInput
from cryoflow.ingest.parameters import IngestParameters
from cryoflow.parameters import ParameterError, Parameters
from cryoflow.pickers.parameters import EvaluateParameters, ExportParameters
from cryoflow.report.execution import read_trace
from cryoflow.unpicker.parameters import TrainUnpickerParameters, UnpickParameters
from flows.evaluation import evaluate
from flows.export import export
from flows.ingest import ingest
from flows.parameters import PipelineParameters
from flows.pipeline import pipeline
from flows.scoring import ranges_to_score
from flows.unpicker import train_unpicker, unpick


@pytest.fixture(scope="module")
def logged() -> Iterator[list[str]]:
    """What the pipeline logs, beside its stages."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in ("flows", "cryoflow.cluster.dispatch")]
    for logger in loggers:
        logger.addHandler(handler)
    yield lines
    for logger in loggers:
        logger.removeHandler(handler)


@pytest.fixture(scope="module")
def whole(
    project: Path, tmp_path_factory: pytest.TempPathFactory, prefect_server: None, logged: list[str]
) -> PipelineParameters:
    """The pipeline's parameters after it has run once."""
    output = tmp_path_factory.mktemp("run")
    parameters = PipelineParameters(
        roots=(project.parent,), output=output, diameter_A=160.0, epochs=2, test=0.34, chunk_micrographs=2
    )
    pipeline(parameters)
    return parameters


def _read() -> tuple[list[FlowRun], list[Artifact]]:
    async def read() -> tuple[list[FlowRun], list[Artifact]]:
        async with get_client() as client:
            return await client.read_flow_runs(), await client.read_artifacts()

    return asyncio.run(read())


def test_the_pipeline_leaves_database_training_sets_model_clean_picks_and_report(whole: PipelineParameters) -> None:
    output = whole.output
    entries = {entry.name for entry in Database(output / "database").entries()}
    assert {"CS-barrel/NonUniform_J11", "CS-barrel/AutoPick_J4_labelled", "CS-barrel/Unpicked_J4"} <= entries
    assert (output / "training" / "cryolo" / "manifest.tsv").is_file()
    assert (output / "training" / "topaz" / "manifest.tsv").is_file()
    assert (output / "unpicker" / "bundle.json").is_file()
    assert "CS-barrel/Unpicked_J4" in (output / "report.html").read_text()


def test_what_each_stage_took_is_a_file_a_table_and_a_part_of_the_report(whole: PipelineParameters) -> None:
    rows = read_trace(whole.output / "trace.tsv")
    assert [row.stage for row in rows] == ["ingest", "export", "export", "train unpicker", "unpick", "report"]
    assert {row.status for row in rows} == {"Completed"}
    assert all(row.elapsed_s for row in rows)
    assert "Execution" in (whole.output / "report.html").read_text()
    assert ("trace", "table") in {(a.key, a.type) for a in _read()[1]}


def test_the_log_of_the_pipeline_tells_each_stage_with_its_figures_and_what_was_made(
    whole: PipelineParameters, logged: list[str]
) -> None:
    for stage in ("ingest", "train unpicker", "unpick", "report"):
        assert f"{stage}: begun" in logged
        assert any(line.startswith(f"{stage}: completed after ") for line in logged)
    assert any(re.match(r"ingest: completed after .* s\. .*12 jobs: 9 read", line) for line in logged)
    made = next(line for line in logged if line.startswith("made below"))
    assert made == (
        f"made below {whole.output}: 2 training set(s), the model {whole.output / 'unpicker'}, 1 clean entries, "
        f"and the report {whole.output / 'report.html'}"
    )


def test_running_the_pipeline_again_writes_nothing_but_the_report_and_the_trace(whole: PipelineParameters) -> None:
    before = written_files(whole.output)
    result = pipeline(whole)
    after = written_files(whole.output)
    assert result.ingested.summary.startswith("12 jobs: 9 unchanged")
    changed = {path.name for path in after if after[path] != before.get(path)}
    assert changed <= {"report.html", "trace.tsv"}
    assert before.keys() == after.keys()


def test_runs_are_named_by_stage_subject_and_day(whole: PipelineParameters) -> None:
    names = {run.name.rsplit(" · ", 1)[0] for run in _read()[0]}
    assert {"ingest · projects", "export · cryolo", "train unpicker · unpicker", "report · database"} <= names


def test_each_stage_shows_a_table_and_the_report_is_a_link(whole: PipelineParameters) -> None:
    artifacts = {(a.key, a.type): a for a in _read()[1]}
    tables = ("ingest", "best-jobs", "export-cryolo-settings", "labels", "model", "unpick")
    assert {(key, "table") for key in tables} <= artifacts.keys()
    assert ("ingest-progress", "progress") in artifacts
    assert str(whole.output / "report.html") in str(artifacts["report", "markdown"].data)
    assert "NonUniform_J11" in str(artifacts["best-jobs", "table"].data)


def test_a_job_that_cannot_be_read_is_one_line_and_the_rest_is_read(project: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "projects" / "CS-broken"
    shutil.copytree(project, broken, symlinks=True)
    (broken / "J10" / "J10_00008_particles.cs").write_bytes(b"truncated")
    for file in (broken / "J10").glob("*particles.cs"):
        file.write_bytes(file.read_bytes()[:40])
    report = ingest(IngestParameters(roots=(broken.parent,), database=tmp_path / "DB"))
    states = {line.job: line.status for line in report.lines}
    assert states["J10"] == "failed"
    assert states["J11"] == "read"


def test_a_shard_that_is_done_is_not_scored_again(
    whole: PipelineParameters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cryoflow.unpicker.unpick_shards as shards

    parameters = UnpickParameters(
        database=whole.output / "database",
        model=whole.output / "unpicker",
        work=tmp_path / "work",
        entries=("*/AutoPick_J4",),
        chunk_micrographs=2,
    )
    assert [entry for entry, *_ in ranges_to_score(parameters, 1000)] == ["CS-barrel/AutoPick_J4"]
    assert unpick(parameters) == ("CS-barrel/Unpicked_J4",)
    before = Database(parameters.database).load("CS-barrel/Unpicked_J4").picks
    records = sorted(parameters.work.glob("*.json"))
    assert len(records) == 3
    records[1].unlink()
    seen: list[int] = []
    real = shards.score

    def score(bundle: object, micrographs: object, **options: object) -> object:
        members = list(micrographs)  # type: ignore[call-overload]
        seen.append(len(members))
        return real(bundle, members, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(shards, "score", score)
    unpick(parameters)
    assert len(seen) == 1
    assert Database(parameters.database).load("CS-barrel/Unpicked_J4").picks.equals(before)


def test_projects_and_entries_to_train_the_unpicker_on_may_be_patterns(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[str, ...]] = []

    @task
    def train_model(_: TrainUnpickerParameters, labeled: tuple[str, ...]) -> None:
        given.append(labeled)

    monkeypatch.setattr("flows.unpicker.train_model", train_model)
    ingest(IngestParameters(roots=(project.parent,), database=tmp_path / "DB"))
    form = TrainUnpickerParameters(database=tmp_path / "DB", model=tmp_path / "model", projects=("CS-b*",))
    train_unpicker(form)
    (labeled,) = given[0]
    train_unpicker(replace(form, entries=(labeled.replace("CS-barrel", "*"),)))
    assert given == [(labeled,), (labeled,)]
    for nothing in ({"projects": ("P*",)}, {"entries": ("P*/*",)}):
        with pytest.raises(BadInput, match="nothing matches 'P"):
            train_unpicker(replace(form, **nothing))


def test_an_entry_against_itself_has_full_precision_and_recall(whole: PipelineParameters, tmp_path: Path) -> None:
    database = whole.output / "database"
    reference = Database(tmp_path / "reference")
    reference.add(Database(database).load("CS-barrel/NonUniform_J11"))
    parameters = EvaluateParameters(
        database=database,
        entries=("CS-barrel/NonUniform_J11", "*/AutoPick_J4", "*/NonUniform_J11"),
        reference_database=reference.root,
        output=tmp_path / "evaluation.json",
        diameter_A=160.0,
    )
    itself, everything = evaluate(parameters)
    assert (itself.precision, itself.recall) == (1.0, 1.0)
    assert everything.n_picks > itself.n_picks
    assert everything.precision < 1.0
    assert parameters.output.is_file()


def test_stages_get_absolute_paths_from_relative_ones(
    whole: PipelineParameters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage's job has a working folder of its own."""
    given: list[Parameters] = []

    def run_stage(stage: object, parameters: Parameters) -> None:
        given.append(parameters)

    monkeypatch.chdir(tmp_path)
    Path("projects").symlink_to(whole.roots[0])
    Path("output").mkdir()
    Path("output", "evaluation.json").write_bytes(b"[]")
    monkeypatch.setattr("flows.pipeline.run_stage", run_stage)
    monkeypatch.setattr("flows.pipeline.export_all", given.extend)
    monkeypatch.setattr("flows.pipeline.entries_to_clean", lambda database: ("P/AutoPick_J4",))
    monkeypatch.setattr("flows.pipeline.unpicked_entries", lambda database, entries: ("P/Unpicked_J4",))
    monkeypatch.setattr("flows.pipeline.read_comparisons", lambda file: ())
    monkeypatch.setattr("flows.pipeline.what_stages_cost", lambda output: None)
    monkeypatch.setattr("flows.pipeline.ingest_in_shards", lambda parameters, size: None)
    monkeypatch.setattr("flows.pipeline.score_in_shards", lambda parameters, size: None)
    pipeline(
        PipelineParameters(
            roots=(Path("projects"),), output=Path("output"), reference_database=Path("reference"), diameter_A=160.0
        )
    )
    assert [type(parameters).__name__ for parameters in given] == [
        "IngestParameters", "ExportParameters", "ExportParameters", "TrainUnpickerParameters", "UnpickParameters",
        "EvaluateParameters", "ReportParameters",
    ]  # fmt: skip
    for parameters in given:
        for value in vars(parameters).values():
            for path in value if isinstance(value, tuple) else (value,):
                assert not isinstance(path, Path) or path.is_absolute(), parameters


def test_an_export_without_any_sound_entry_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no entry to train from"):
        export(ExportParameters(picker="topaz", database=tmp_path / "DB", output=tmp_path / "out"))


@pytest.mark.parametrize(
    ("form", "values", "complaint"),
    [
        (IngestParameters, {"roots": (), "database": "DB"}, "at least 1"),
        (IngestParameters, {"roots": ("/data",), "database": "DB", "remaps": ("nonsense",)}, "OLD=NEW"),
        (ExportParameters, {"picker": "gpicker", "database": "DB", "output": "o"}, "cryolo"),
        (TrainUnpickerParameters, {"database": "DB", "model": "m", "epoch": 3}, "no parameter 'epoch'"),
        (TrainUnpickerParameters, {"database": "DB", "model": "m", "test": 1.0}, "less than 1"),
    ],
)
def test_a_form_refuses_what_makes_no_sense(form: type[Parameters], values: dict[str, object], complaint: str) -> None:
    with pytest.raises(ParameterError, match=complaint):
        form.from_values(values)


@pytest.mark.parametrize("flow", [ingest, export, unpick, evaluate, pipeline], ids=lambda f: f.name)
def test_every_field_of_every_form_is_described(flow: object) -> None:
    (form,) = parameter_schema(flow).definitions.values()  # type: ignore[arg-type]
    fields = form["properties"].values()
    assert all(len(field["description"]) > 5 for field in fields)
    assert any("Example: /data" in field["description"] for field in fields)
    assert [field["position"] for field in fields] == list(range(len(fields)))


def test_no_stage_leaves_hidden_files(whole: PipelineParameters) -> None:
    hidden = [p for p in whole.output.rglob(".*.tmp-*")]
    assert hidden == []
