"""`cryoflow evaluate`: compare picks with reference picks."""

from __future__ import annotations

from pathlib import Path

from cryoflow.cli import output as out
from cryoflow.cli.declared import declared
from cryoflow.cli.entries import load, load_one
from cryoflow.pickers.parameters import ComparePicksParameters


@declared
def evaluate(parameters: ComparePicksParameters, *, json: out.Json = False) -> None:
    """Compare picks with reference picks: precision, recall, F1, average precision and localization error."""
    from cryoflow.pickers.comparing.compare import compare
    from cryoflow.pickers.comparing.evaluate import per_micrograph, table_of, write_evaluation

    p = parameters
    reference = load_one(p.reference, p.database)
    only = _names_of(p.split_of, p.split, reference.provenance.project_name) if p.split_of else None
    results = [
        compare(picks, reference, radius=p.radius, diameter_A=p.diameter_A, only=only, method=p.method)
        for picks in load(p.entries, p.database)
    ]
    table = per_micrograph(results) if p.per_micrograph else table_of(results)
    out.emit_table(table.to_dict("records"), as_json=json, title=f"Against {p.reference}")
    for result in results:
        if result.only_in_reference or result.only_in_picks:
            out.say(
                f"note: {result.entry}: {result.only_in_reference} micrographs of the reference were not picked and "
                f"{result.only_in_picks} that were picked are not in the reference; they do not count."
            )
    if p.output:
        for path, is_new in write_evaluation(results, p.reference, p.output).items():
            out.say(f"{'wrote' if is_new else 'unchanged:'} {path}")


def _names_of(folder: Path, split: str, project: str) -> frozenset[str]:
    """Return the micrographs of one project in one split: those of another may have the same names."""
    from cryoflow.pickers.training_sets.manifest import read_manifest

    table = read_manifest(folder)
    names = frozenset(map(str, table.loc[(table["split"] == split) & (table["project"] == project), "name"]))
    if not names:
        raise out.UsageError(f"{folder} has no micrographs of {project} in the split {split}.")
    return names
