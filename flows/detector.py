"""Training of the detector on the projects of a database."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, task

from cryoflow.detector.parameters import TrainDetectorParameters
from cryoflow.models.find_model import with_model
from flows.run_page import log, run_name, show_table, shown_progress


@flow(name="train detector", flow_run_name=run_name("train detector", lambda p: p.output.name))
def train_detector(parameters: TrainDetectorParameters) -> Path:
    """Train the detector further on the picks that survived in projects, or on entries that people reviewed.

    A finished training of the same picks and options is taken as it is; a stopped one goes on.
    """
    parameters = with_model(parameters, "start")
    fit_detector.with_options(task_run_name=f"train {parameters.output.name}")(parameters)
    return parameters.output


@task
def fit_detector(parameters: TrainDetectorParameters) -> None:
    """Train one detector."""
    from cryoflow.detector.train import train_as_asked

    with shown_progress("detector training", "steps of the detector's training") as report:
        detector, prepared = train_as_asked(parameters, say=log.info, on_progress=report)
    for line in (*prepared.notes, *(f"not used: {error}" for error in prepared.failed)):
        log.warning("%s", line)
    rows = [{"measure": name, "value": value} for name, value in dict(detector.metrics).items()]
    show_table(
        "detector", rows, f"detector in {parameters.output}; {len(prepared.failed)} micrographs could not be used"
    )
