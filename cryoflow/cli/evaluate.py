"""`cryoflow evaluate`: picks judged against reference picks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from cryoflow.cli import output as out
from cryoflow.cli.export import Db, load
from cryoflow.cli.picker_common import Flag


def evaluate(
    *entries: str,
    reference: str,
    database: Db,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    radius: float = 0.25,
    diameter: float | None = None,
    method: Literal["optimal", "greedy"] = "optimal",
    split_of: Path | None = None,
    split: Literal["train", "validation", "test"] = "test",
    micrographs: Flag = False,
    json: out.Json = False,
) -> None:
    """Compare picks with reference picks: precision, recall, F1, average precision and localisation error.

    Parameters
    ----------
    entries
        Entries to judge, one picker each.
    reference
        The entry that is taken to be right.
    database
        Where they are.
    output
        Folder for the tables and the figure.
    radius
        A pick is right within so many diameters of a reference pick.
    diameter
        Particle diameter in angstrom, where the reference does not know it.
    method
        optimal: as many pairs as can be; greedy: the nearest pair first.
    split_of
        Count only the micrographs of one split of this exported folder: what a picker trained on must not judge it.
    split
        Which.
    micrographs
        One line a micrograph instead of one an entry.
    """
    from cryoflow.pickers.comparing.compare import compare
    from cryoflow.pickers.comparing.evaluate import per_micrograph, table_of, write_evaluation

    right = load([reference], database)[0]
    only = _names_of(split_of, split, right.provenance.project_name) if split_of else None
    results = [
        compare(p, right, radius=radius, diameter_A=diameter, only=only, method=method) for p in load(entries, database)
    ]
    table = per_micrograph(results) if micrographs else table_of(results)
    out.emit_table(table.to_dict("records"), as_json=json, title=f"Against {reference}")
    for result in results:
        if result.only_in_reference or result.only_in_picks:
            out.say(
                f"note: {result.entry}: {result.only_in_reference} micrographs of the reference were not picked and "
                f"{result.only_in_picks} that were picked are not in the reference; they do not count."
            )
    if output:
        for path in write_evaluation(results, reference, output):
            out.say(f"wrote {path}")


def _names_of(folder: Path, split: str, project: str) -> frozenset[str]:
    """Micrographs of one project in one split: those of another may have the same names."""
    from cryoflow.pickers.training_sets.manifest import read_manifest

    table = read_manifest(folder)
    names = frozenset(map(str, table.loc[(table["split"] == split) & (table["project"] == project), "name"]))
    if not names:
        raise out.UsageError(f"{folder} has no micrographs of {project} in the split {split}.")
    return names
