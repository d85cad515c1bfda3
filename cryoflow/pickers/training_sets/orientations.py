"""Compare the picks of a training set with the pixels, before a picker learns from them."""

from __future__ import annotations

import numpy as np

from cryoflow.errors import BadInput
from cryoflow.pickers.training_sets.links import read_any
from cryoflow.pickers.training_sets.training_set import TrainingSet
from cryoflow.picks import UNCONFIRMED, require_confirmed

MICROGRAPHS_CHECKED = 4
_REMEDY = " --force exports it all the same."


def check_orientations(training: TrainingSet, *, force: bool) -> list[str]:
    """Compare the picks of each entry with the pixels: are they flipped or swapped?

    This is the one place through which every training set for a picker passes, so that it also refuses unconfirmed
    picks (`picks.require_confirmed`) that the pixels do not confirm here either.

    Raises
    ------
    BadInput
        Where picks are flipped, swapped or unconfirmed, unless `force`.
    """
    from cryoflow.micrographs.orientation import check_orientation

    notes = []
    offsets = training.offsets
    for index, pickset in enumerate(training.picksets):
        rows = np.flatnonzero(training.micrographs["entry_index"].to_numpy() == index)
        counts = training.micrographs["n_picks"].to_numpy()[rows]
        rows = rows[np.argsort(-counts, kind="stable")][:MICROGRAPHS_CHECKED]
        rows = rows[training.micrographs["n_picks"].to_numpy()[rows] > 0]
        if pickset.is_unconfirmed and force:
            notes.append(f"{pickset.provenance.entry_name}: exported although {UNCONFIRMED}")
        if len(rows) == 0:  # negatives alone, or no micrograph that is found
            if not force:
                require_confirmed(pickset, _REMEDY)
            continue
        verdict = check_orientation(
            (read_any(training.micrographs["path"].iloc[i]) for i in rows),
            [training.picks[["x_px", "y_px"]].iloc[offsets[i] : offsets[i + 1]].to_numpy() for i in rows],
            float(training.micrographs["box_px"].iloc[rows[0]]),
        )
        entry = str(training.micrographs["entry"].iloc[rows[0]])
        if verdict.verdict == "contradicted":
            if not force:
                raise BadInput(
                    entry,
                    f"does not fit its micrographs: {verdict}",
                    "Look at its picks on a micrograph; ingest the project with the right flip, or use --force.",
                )
            notes.append(f"{entry}: exported although {verdict}")
        elif verdict.verdict != "confirmed" and not force:
            require_confirmed(pickset, _REMEDY)
    return notes
