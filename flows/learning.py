"""Models that keep learning: updates, the improvement of a picker, and the night that runs all updates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from prefect import flow, task

from cryoflow.cluster.dispatch import StageFailed, run_stage
from cryoflow.errors import BadInput, CryoflowError
from cryoflow.ingest import IngestReport
from cryoflow.ingest.parameters import IngestParameters
from cryoflow.learning.parameters import (
    ImproveParameters,
    LearnParameters,
    UpdateDetectorParameters,
    UpdateParameters,
    UpdateUnpickerParameters,
)
from cryoflow.learning.update import UpdateResult
from cryoflow.models.registry import ModelRegistry
from cryoflow.models.version import version_name
from flows.ingest import ingest, ingest_in_shards
from flows.run_page import log, run_name, show_link, show_table

P = TypeVar("P", bound=UpdateParameters)


@flow(name="update detector", flow_run_name=run_name("update detector", lambda p: p.name))
def update_detector(parameters: UpdateDetectorParameters) -> UpdateResult:
    """Let the detector learn from new and changed projects; put the result into use where it is better.

    A stopped update goes on where it was.
    """
    from cryoflow.learning.stage import update_detector as run

    return learn_what_is_new.with_options(task_run_name=f"update {parameters.name}")(parameters, run)


@flow(name="update unpicker", flow_run_name=run_name("update unpicker", lambda p: p.name))
def update_unpicker(parameters: UpdateUnpickerParameters) -> UpdateResult:
    """Let the unpicker learn from new and changed projects; put the result into use where it is better.

    A stopped update goes on where it was.
    """
    from cryoflow.learning.stage import update_unpicker as run

    return learn_what_is_new.with_options(task_run_name=f"update {parameters.name}")(parameters, run)


@task
def learn_what_is_new(parameters: P, run: Callable[..., UpdateResult]) -> UpdateResult:
    """Learn, compare with the version in use, and promote."""
    from cryoflow.learning.stage import described

    result = run(parameters, say=log.info)
    record = described(result)
    changes = result.verdict.changes if result.verdict else ()
    show_table(f"update {parameters.name}", [record], f"update of {parameters.name}: {result.outcome}")
    if changes:
        rows = [
            {
                "project": c.project,
                "new": c.is_new,
                "F1 before": c.f1_before,
                "F1 now": c.f1_after,
                "agreement before": c.agreed_before,
                "agreement now": c.agreed_after,
            }
            for c in changes
        ]
        show_table(f"gate {parameters.name}", rows, f"F1 of {parameters.name} on held-out micrographs")
    return result


@flow(name="improve", flow_run_name=run_name("improve", lambda p: p.picker))
def improve(parameters: ImproveParameters) -> dict[str, object]:
    """Improve a picker on micrographs without labels: pick, clean the picks, train on them, keep the better model.

    Rounds are compared on held-out micrographs, and end when nothing is gained. A stopped run goes on where it was.
    """
    return improve_picker.with_options(task_run_name=f"improve {parameters.picker}")(parameters)


@task
def improve_picker(parameters: ImproveParameters) -> dict[str, object]:
    """Do the rounds that are missing, and put the best model into use."""
    from cryoflow.learning.improve_stage import improve_picker as run

    done = run(parameters, say=log.info, on_line=log.info)
    rows = [{"round": r.number, "score": r.score, "better": r.better, "why": r.why} for r in done.result.rounds]
    show_table(f"improve {parameters.picker}", rows, f"{done.result.measure}; {done.result.ended}")
    record = done.described()
    show_table(f"improved {parameters.picker}", [record], f"picks in {done.entry.name}")
    return record


@flow(name="learn", flow_run_name=run_name("learn", lambda p: p.database.name))
def learn(parameters: LearnParameters) -> Path:
    """Read what is new, let detector and unpicker learn from it, and write a page about the models.

    A stage that fails stops no other; the page says so. A second run does only what is missing.
    """
    p = parameters
    notes = []
    ingesting = IngestParameters(roots=p.roots, database=p.database, remaps=p.remaps)

    def read() -> IngestReport | None:
        ingest_in_shards(ingesting, p.shard_micrographs)
        return run_stage(ingest, ingesting)

    arrived, failed = _tried("ingest", read)
    if arrived is not None:
        notes.append(f"What arrived: {arrived.summary}")
    common = {"database": p.database, "models": p.root, "joint_every": p.joint_every, "micrographs": p.micrographs}
    detector, unpicker = UpdateDetectorParameters(**common), UpdateUnpickerParameters(**common)  # type: ignore[arg-type]
    failures = [failed] if failed else []
    if p.unpicker:  # first: the agreement with it is a measure of the detector
        failures += filter(None, [_tried("update unpicker", lambda: run_stage(update_unpicker, unpicker))[1]])
    if p.detector:
        failures += filter(None, [_tried("update detector", lambda: run_stage(update_detector, detector))[1]])
    page = write_models_page(p.root, (detector.name, unpicker.name), (*notes, *failures))
    show_link("learning", page, "the page of the models")
    if failures:
        raise StageFailed(" ".join(failures))
    return page


R = TypeVar("R")


def _tried(stage: str, run: Callable[[], R]) -> tuple[R | None, str]:
    """Return what a stage returned, and what went wrong."""
    try:
        return run(), ""
    except CryoflowError as error:
        log.warning("%s: %s", stage, error)
        return None, f"{stage} failed: {error}"


@task(task_run_name="page of the models")
def write_models_page(models: Path, names: tuple[str, ...], notes: tuple[str, ...]) -> Path:
    """Write figures and tables of all versions."""
    from cryoflow.learning.versions_page import write_page

    registry = ModelRegistry(models)
    rows = []
    for name in names:
        try:
            history = registry.history(name)
        except BadInput as error:  # the page says so, too, and shows the other models
            log.warning("%s", error)
            continue
        if history:
            used = history[-1]
            rows.append({"model": name, "in use": f"{name}@{version_name(used.version)}", "why": used.reason})
    show_table("models", rows, f"{len(rows)} models are in use")
    return write_page(registry, names, notes)
