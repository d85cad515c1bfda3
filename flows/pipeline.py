"""The pipeline: from finished projects to a database, training sets, a trained unpicker, clean picks and a report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from prefect import flow, task
from prefect.runtime import flow_run

from cryoflow.cluster.dispatch import run_stage
from cryoflow.database import Database
from cryoflow.ingest import IngestReport
from cryoflow.ingest.parameters import IngestParameters
from cryoflow.pickers.comparing.compare import Comparison
from cryoflow.pickers.parameters import EvaluateParameters, ExportParameters
from cryoflow.picks import Kind
from cryoflow.report.parameters import ReportParameters
from cryoflow.unpicker.parameters import TrainUnpickerParameters, UnpickParameters
from flows.evaluation import evaluate, read_comparisons
from flows.export import export_all
from flows.ingest import ingest, ingest_in_shards
from flows.parameters import PipelineParameters
from flows.report import report
from flows.run_page import log, run_name, show_table
from flows.scoring import score_in_shards
from flows.unpicker import entries_to_clean, train_unpicker, unpick


@dataclass(frozen=True)
class PipelineResult:
    """Folders of the results, and their numbers."""

    database: Path
    exports: tuple[Path, ...]
    model: Path
    unpicked: tuple[str, ...]
    report: Path
    ingested: IngestReport
    before: tuple[Comparison, ...] = ()
    after: tuple[Comparison, ...] = ()


@flow(name="pipeline", flow_run_name=run_name("pipeline", lambda p: p.output.name))
def pipeline(parameters: PipelineParameters) -> PipelineResult:
    """Ingest, export, train the unpicker, clean the picks, evaluate where a reference is given, and report.

    Each stage skips what its outputs already contain, so that a second run goes on where the first was stopped. The
    profile decides where stages run: in this process, or as deployments on their pool, large ones in shards.
    """
    p = parameters
    output = p.output.absolute()
    database = (p.database or output / "database").absolute()
    model = output / "unpicker"

    roots = tuple(root.absolute() for root in p.roots)  # a stage's job has a working folder of its own
    ingesting = IngestParameters(roots=roots, database=database, remaps=p.remaps)
    ingest_in_shards(ingesting, p.shard_micrographs)
    ingested = run_stage(ingest, ingesting) or IngestReport(())
    exports = tuple(output / "training" / name for name in p.pickers)
    export_all(
        [
            ExportParameters(
                picker=name,
                database=database,
                output=folder,
                diameter_A=p.diameter_A,
                test=p.test,
                seed=p.seed,
                shard_micrographs=p.shard_micrographs,
            )
            for name, folder in zip(p.pickers, exports, strict=True)
        ]
    )
    run_stage(
        train_unpicker,
        TrainUnpickerParameters(
            database=database,
            model=model,
            diameter_A=p.diameter_A,
            epochs=p.epochs,
            patience=p.patience,
            test=p.test,
            seed=p.seed,
        ),
    )
    candidates = entries_to_clean(database)
    unpicking = UnpickParameters(
        database=database,
        model=model,
        work=output / "work",
        entries=candidates,
        chunk_micrographs=p.chunk_micrographs,
    )
    score_in_shards(unpicking, p.shard_micrographs)
    unpicked = run_stage(unpick, unpicking) or unpicked_entries(database, candidates)
    comparisons: tuple[Comparison, ...] = ()
    evaluation = output / "evaluation.json" if p.reference_database else None
    if p.reference_database and evaluation:
        evaluating = EvaluateParameters(
            database=database,
            entries=(*candidates, *unpicked),
            reference_database=p.reference_database.absolute(),
            output=evaluation,
            model=model,
            diameter_A=p.diameter_A,
        )
        comparisons = run_stage(evaluate, evaluating) or read_comparisons(evaluation)
    page, costs = output / "report.html", output / "trace.tsv"
    what_stages_cost(costs)
    run_stage(
        report,
        ReportParameters(
            database=database, output=page, model=model, exports=exports, evaluation=evaluation, trace=costs
        ),
    )
    what_stages_cost(costs)  # the report's own stage too
    made = f"{len(exports)} training set(s), the model {model}, {len(unpicked)} clean entries, and the report {page}"
    log.info("made below %s: %s", output, made)
    n = len(candidates) if comparisons else 0
    return PipelineResult(database, exports, model, unpicked, page, ingested, comparisons[:n], comparisons[n:])


@task(task_run_name="what the stages cost")
def what_stages_cost(output: Path) -> None:
    """Write time, CPU, memory and SLURM job of each stage and shard that this run has started so far."""
    from cryoflow.cluster.trace import final_trace
    from cryoflow.report.execution import write_trace

    rows = final_trace(UUID(flow_run.id))
    write_trace(output, rows)
    shown = [
        {
            "run": row.title,
            "status": row.status,
            "SLURM job": row.slurm_job,
            "node": row.nodes,
            "waited (s)": row.queued_s,
            "wall (s)": row.elapsed_s,
            "CPU (%)": row.cpu_percent,
            "peak (MB)": row.peak_mb,
            "exit": row.exit,
        }
        for row in rows
    ]
    show_table("trace", shown, f"what {len(rows)} stages and shards cost; all of it is in {output}")


def unpicked_entries(database: Path, candidates: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the entries that un-picking made of other entries: those of the same project and job."""
    entries = Database(database).entries()
    of = {(entry.project, entry.job): entry.name for entry in entries if entry.kind == Kind.UNPICKED}
    jobs = [(entry.project, entry.job) for name in candidates for entry in entries if entry.name == name]
    return tuple(of[job] for job in jobs if job in of)
