"""Scores of an entry's picks by an unpicker, computed behind the page that shows them."""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from cryoflow.errors import BadInput, CryoflowError
from cryoflow.models.find_model import find_model
from cryoflow.preparation.picked_micrograph import PickedMicrograph, picked_micrographs
from cryoflow.storage import inputs
from cryoflow.storage.files import write_atomically
from cryoflow.storage.safe_names import short_hash
from cryoflow.unpicker.bundle import ModelBundle
from cryoflow.unpicker.scoring import ScoredMicrograph, score
from cryoflow.unpicker.suggest import suggest
from cryoflow.view.candidates import Candidates, Float
from cryoflow.view.journal import user_state_folder

log = logging.getLogger(__name__)

SUGGESTED = 50
"""Micrographs that are suggested for cleaning, best first."""
_TAKE_OVER_S = 2.0
"""Seconds between two times at which new scores are shown: showing them makes the page read its micrograph again."""


class Scoring:
    """Scores of one entry, more of them as time goes by.

    Attributes
    ----------
    done, of
        Micrographs that are scored, and all of them.
    finished
        Whether all are scored, or cannot be.
    problem
        Why there will be no scores, empty where there will.
    """

    def __init__(self, candidates: Candidates, model: Path, pool: ThreadPoolExecutor) -> None:
        self.first, self.model = candidates, model
        self.done, self.of = 0, int((np.diff(candidates.offsets) > 0).sum())
        self.finished, self.problem = False, ""
        self.suggested: list[int | None] = [None] * len(candidates.picks.micrographs)
        self._failed: list[str] = []
        self._candidates = candidates
        self._lock = threading.Lock()
        pool.submit(self._run)

    @property
    def candidates(self) -> Candidates:
        """Return the entry's picks with the scores computed so far."""
        with self._lock:
            return self._candidates

    def _run(self) -> None:
        try:
            bundle = ModelBundle.load(find_model(self.model))
            kept = user_state_folder() / "scores" / f"{short_hash(f'{self.first.fingerprint} {bundle.mark}', 24)}.npz"
            picks, _ = picked_micrographs(self.first.picks, diameter_A=bundle.diameter_A)
            scores = self._read(kept)
            if scores is None:
                scores, scored = self._score(bundle, picks)
                if not self._failed:  # they may be readable at the next start
                    self._keep(kept, scores)
            else:
                scored = [ScoredMicrograph(m, p := self._of(scores, m.name), p >= bundle.threshold) for m in picks]
            self._suggest(bundle, scored)
            self._show(scores, bundle.threshold)
        except CryoflowError as error:
            self.problem = str(error)
        except Exception as error:
            log.exception("scoring %s", self.first.entry.name)
            self.problem = f"The picks could not be scored: {error!r}"
        finally:
            self.finished = True

    def _score(self, bundle: ModelBundle, picks: Sequence[PickedMicrograph]) -> tuple[Float, list[ScoredMicrograph]]:
        c = self.first
        row_of = {str(name): i for i, name in enumerate(c.picks.micrographs["name"])}
        scores = np.full(len(c), np.nan)
        scored: list[ScoredMicrograph] = []
        shown = time.monotonic()
        for result in score(bundle, picks):
            self.done += 1
            if isinstance(result, BadInput):
                self._failed.append(str(result))
                continue
            scored.append(result)
            scores[c.rows(row_of[result.micrograph.name])] = result.probabilities
            if time.monotonic() - shown > _TAKE_OVER_S:
                self._show(scores, bundle.threshold)
                shown = time.monotonic()
        return scores, scored

    def _show(self, scores: Float, threshold: float) -> None:
        scored = self.first.with_scores(scores.copy(), threshold)
        notes = [f"Scored by {self.model}."]
        if self._failed:
            notes.append(f"{len(self._failed)} of {self.of} micrographs could not be scored. {self._failed[0]}")
        with self._lock:
            self._candidates = replace(scored, notes=(*scored.notes, *notes))

    def _suggest(self, bundle: ModelBundle, scored: list[ScoredMicrograph]) -> None:
        row_of = {str(name): i for i, name in enumerate(self.first.picks.micrographs["name"])}
        for rank, found in enumerate(suggest(bundle, scored, number=SUGGESTED), 1):
            self.suggested[row_of[found.name]] = rank

    def _of(self, scores: Float, name: str) -> Float:
        row = list(self.first.picks.micrographs["name"]).index(name)
        return scores[self.first.rows(row)]

    def _read(self, file: Path) -> Float | None:
        try:
            scores = inputs.read_npz(file, "scores")["scores"]
        except (OSError, ValueError, KeyError):
            return None
        return scores.astype(np.float64) if scores.shape == (len(self.first),) and scores.dtype.kind == "f" else None

    def _keep(self, file: Path, scores: Float) -> None:
        stream = io.BytesIO()
        np.savez(stream, scores=scores)
        try:
            write_atomically(file, stream.getvalue())
        except CryoflowError as error:
            log.warning("scores are computed again at the next start: %s", error)
