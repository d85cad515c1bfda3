"""Evaluation: compare picks with reference picks, on micrographs that the model was not trained on."""

from __future__ import annotations

import json
from pathlib import Path

from prefect import flow, task

from cryoflow.database import Database
from cryoflow.errors import BadInput
from cryoflow.pickers.comparing.compare import Compared, Comparison, compare
from cryoflow.pickers.comparing.evaluation_record import read_evaluation
from cryoflow.pickers.parameters import EvaluateParameters
from cryoflow.storage.files import write_atomically
from cryoflow.storage.json_values import plain
from flows.run_page import run_name, show_table


@flow(name="evaluate", flow_run_name=run_name("evaluate", lambda p: p.database.name))
def evaluate(parameters: EvaluateParameters) -> tuple[Comparison, ...]:
    """Measure precision and recall of entries against the reference entry of their project."""
    names = Database(parameters.database).matching(parameters.entries)
    results = tuple(compare_entry.with_options(task_run_name=f"compare {name}")(parameters, name) for name in names)
    entries = [
        {
            "entry": name,
            "precision": r.precision,
            "recall": r.recall,
            "n_picks": r.n_picks,
            "n_reference": r.n_reference,
            "n_matched": r.n_matched,
            "micrographs": r.micrographs,
        }
        for name, r in zip(names, results, strict=True)
    ]
    record = {
        "reference_database": parameters.reference_database,
        "radius": parameters.radius,
        "model": parameters.model,
        "entries": entries,
    }
    write_atomically(parameters.output, json.dumps(plain(record), indent=1) + "\n")
    rows = [{**row, "micrographs": len(r.micrographs)} for row, r in zip(entries, results, strict=True)]
    show_table(
        "evaluation", rows, f"compared with {parameters.reference_database}, within {parameters.radius:g} diameters"
    )
    return results


@task
def compare_entry(parameters: EvaluateParameters, name: str) -> Comparison:
    """Compare one entry."""
    database, references = Database(parameters.database), Database(parameters.reference_database)
    picks = database.load(name)
    project = picks.provenance.project
    reference = next((e for e in references.entries() if e.project_path == project), None)
    if reference is None:
        raise BadInput(parameters.reference_database, f"has no entry of the project {project}.")
    unseen = names_in_test_split(parameters.model, picks.provenance.project_name) if parameters.model else None
    return compare(
        picks, references.load(reference), radius=parameters.radius, diameter_A=parameters.diameter_A, only=unseen
    )


def read_comparisons(evaluation: Path) -> tuple[Comparison, ...]:
    """Read the record of an evaluation: the numbers of each entry, without its curve.

    Raises
    ------
    BadInput
        If the file is not such a record.
    """
    return tuple(
        Comparison(
            entry=e.entry,
            n_reference=e.n_reference,
            n_picks=e.n_picks,
            n_matched=e.n_matched,
            micrographs=tuple(Compared(m.n_reference, m.n_picks, m.n_matched, name=m.name) for m in e.micrographs),
        )
        for e in read_evaluation(evaluation).entries
    )


def names_in_test_split(model: Path, project_name: str) -> frozenset[str]:
    """Return the names of the micrographs of a project that a model kept for its test."""
    from cryoflow.models.find_model import find_model
    from cryoflow.unpicker.bundle import ModelBundle

    rows = ModelBundle.load(find_model(model)).manifest
    return frozenset(row.name for row in rows if row.part == "test" and row.data_set == project_name)
