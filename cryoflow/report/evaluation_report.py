"""The report of one evaluation of an unpicker: its numbers, its curves, and the boxes and micrographs behind them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryoflow.drawing.charts import PlotLine, calibration, precision_recall, score_histogram
from cryoflow.drawing.figures import KEPT, MISSED, NEUTRAL, REMOVED, Marks, montage, overlay
from cryoflow.errors import CryoflowError
from cryoflow.micrographs.boxes import cut_boxes
from cryoflow.micrographs.fourier import fourier_resample, rescale_xy
from cryoflow.micrographs.image import read_micrograph
from cryoflow.preparation.picked_micrograph import POSITIVE, UNLABELED
from cryoflow.report.page import Block, Figures, Gallery, Picture, ReportTable, Section, Text
from cryoflow.unpicker.bundle import ModelBundle
from cryoflow.unpicker.evaluate import Evaluation, Row
from cryoflow.unpicker.scoring import ScoredMicrograph

BOXES = 20
"""Patches in a montage."""
COLUMNS = 5
"""Of a montage: two montages lie side by side on the page, and a probability below a box can be read."""
SHOWN_PIXELS_PER_DIAMETER = 28
"""Patches are shown at this sampling, where particles stand out of the noise."""


def evaluation_sections(evaluation: Evaluation, bundle: ModelBundle) -> list[Section]:
    """Return all sections about an evaluation."""
    return [
        _numbers(evaluation, bundle),
        _curves(evaluation),
        Section("Patches", _montages(evaluation, bundle.diameter_A)),
        Section("Micrographs", _overlays(evaluation)),
        _tables(evaluation),
    ]


def _numbers(e: Evaluation, bundle: ModelBundle) -> Section:
    def card(name: str, what: str) -> tuple[str, str, str]:
        interval = e.numbers()[name]
        return f"{interval.value:.3f}", what, f"95 % interval {interval.low:.3f} to {interval.high:.3f}"

    blocks: list[Block] = [
        Figures(
            (
                card("error", "error"),
                card("roc_auc", "ROC AUC"),
                card("average_precision", "average precision"),
                card("precision", "precision of what is kept"),
                card("recall", "recall"),
                card("calibration_error", "calibration error"),
            )
        ),
        Text(
            f"{e.n_picks:,} labeled picks, {e.n_positive:,} of them positive, on {len(e.micrographs)} micrographs "
            f"that were used for nothing else. Picks of at least {_limits(e)} are kept. "
            "Intervals are from a bootstrap over micrographs, for the picks of one micrograph are not independent."
        ),
    ]
    blocks += [Text(f"Take note: {warning}.") for warning in e.warnings]
    if e.failed:
        rows = [[str(error.path), error.reason] for error in e.failed]
        blocks.append(ReportTable(("micrograph", "why it could not be scored"), rows, caption="Left out"))
    return Section(f"How good is {bundle.folder.name if bundle.folder else 'the model'}?", blocks)


def _limits(e: Evaluation) -> str:
    """Return the threshold, of each project where there are several."""
    if len(e.decisions) < 2:
        return f"a probability of {e.decisions[0].threshold if e.decisions else e.threshold:.3f}"
    return "these probabilities (" + ", ".join(f"{d.project} {d.threshold:.3f}" for d in e.decisions) + ")"


def _curves(e: Evaluation) -> Section:
    recall, precision = e.precision_recall
    at = (e.recall.value, e.precision.value)
    mean_p, fraction_positive, number = e.calibration
    filled = number > 0
    pictures = (
        Picture(
            precision_recall([PlotLine(recall, precision, f"AP {e.average_precision.value:.3f}", NEUTRAL, at)]),
            "The dot is the model's threshold.",
        ),
        Picture(
            calibration([PlotLine(mean_p[filled], fraction_positive[filled], f"ECE {e.calibration_error.value:.3f}")]),
            "On the diagonal, 80 of 100 picks of probability 0.8 are positive.",
        ),
        Picture(
            score_histogram(e.probabilities, e.positive, threshold=e.threshold, name="probability"),
            "The line is the threshold.",
        ),
    )
    return Section("Curves", (Gallery(pictures),))


def _montages(e: Evaluation, diameter_A: float) -> list[Block]:
    """Return the most certain, the most doubtful, and the most wrongly scored picks."""
    place = [(i, k) for i, j in enumerate(e.scored) for k in range(len(j.kept))]
    p = np.concatenate([j.probabilities for j in e.scored]) if e.scored else np.zeros(0)
    kept = np.concatenate([j.kept for j in e.scored]) if e.scored else np.zeros(0, bool)
    label = np.concatenate([j.micrograph.labels for j in e.scored]) if e.scored else np.zeros(0, np.int8)
    positive = label == POSITIVE
    negative = ~positive & (label != UNLABELED)
    groups = (
        ("Most certainly positive", KEPT, np.argsort(-p, kind="stable")),
        ("Most certainly negative", REMOVED, np.argsort(p, kind="stable")),
        ("Most doubtful", MISSED, np.argsort(np.abs(p - 0.5), kind="stable")),
        ("Kept, but labeled negative", REMOVED, _worst(negative & kept, -p)),
        ("Removed, but labeled positive", KEPT, _worst(positive & ~kept, p)),
    )
    pictures = []
    for title, color, order in groups:
        rows = [place[n] for n in order[:BOXES]]
        boxes, captions = _boxes(e.scored, rows, diameter_A)
        if len(boxes):
            n = f"; {len(order)} in all" if len(order) < len(p) else ""
            pictures.append(
                Picture(
                    montage(boxes, captions, columns=COLUMNS, title=title, color=color),
                    f"With their probability{n}.",
                    photo=True,
                )
            )
    return [Gallery(pictures)]


def _worst(which: npt.NDArray[np.bool_], key: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Return rows for which `which` holds, by rising `key`."""
    rows = np.flatnonzero(which)
    return rows[np.argsort(key[rows], kind="stable")]


def _boxes(
    scored: Sequence[ScoredMicrograph], rows: Sequence[tuple[int, int]], diameter_A: float
) -> tuple[npt.NDArray[np.float32], list[str]]:
    """Return patches of picks, in their order, each micrograph read once; those of unreadable micrographs are left
    out."""
    cut: dict[tuple[int, int], npt.NDArray[np.float32]] = {}
    side = 2 * round(0.9 * SHOWN_PIXELS_PER_DIAMETER)
    for i in sorted({i for i, _ in rows}):
        m = scored[i].micrograph
        try:
            image = read_micrograph(m.path)
        except (CryoflowError, OSError):
            continue
        target = max(m.pixel_size_A, (m.diameter_A or diameter_A) / SHOWN_PIXELS_PER_DIAMETER)
        small, _ = fourier_resample(image, m.pixel_size_A, target)
        picks = [k for j, k in rows if j == i]
        centers = rescale_xy(m.centers_xy_px[picks], image.shape, small.shape)
        cut.update({(i, k): box for k, box in zip(picks, cut_boxes(small, centers, side), strict=True)})
    there = [row for row in rows if row in cut]
    captions = [f"{scored[i].probabilities[k]:.2f}" for i, k in there]
    return np.stack([cut[row] for row in there]) if there else np.zeros((0, side, side), np.float32), captions


def _overlays(e: Evaluation) -> list[Block]:
    """Return micrographs from the worst to the best, with what was kept and removed, rightly and wrongly."""
    errors = {row.name: row.error for row in e.micrographs}
    known = [j for j in e.scored if j.micrograph.name in errors]
    by_error = sorted(known, key=lambda j: (-errors[j.micrograph.name], j.micrograph.name))
    chosen = [by_error[i] for i in np.unique(np.linspace(0, len(by_error) - 1, 4).round().astype(int))]
    pictures = []
    for j in chosen:
        m = j.micrograph
        try:
            image = read_micrograph(m.path)
        except (CryoflowError, OSError):
            continue
        positive, negative = m.labels == POSITIVE, (m.labels != POSITIVE) & (m.labels != UNLABELED)
        marks = [
            Marks(m.centers_xy_px[j.kept & ~negative], "kept", KEPT),
            Marks(m.centers_xy_px[~j.kept & ~positive], "removed", REMOVED),
            Marks(m.centers_xy_px[~j.kept & positive], "removed positive", MISSED),
            Marks(m.centers_xy_px[j.kept & negative], "kept negative", NEUTRAL),
        ]
        name = Path(m.name).name
        figure = overlay(
            image, marks, diameter_px=m.diameter_A / m.pixel_size_A, title=name, pixel_size_A=m.pixel_size_A
        )
        pictures.append(Picture(figure, f"{name}: error {errors[m.name]:.1%}", photo=True))
    return [Text("From the worst to the best of the test micrographs."), Gallery(pictures)]


def _tables(e: Evaluation) -> Section:
    def rows(of: Sequence[Row]) -> list[list[object]]:
        return [[r.name, r.n, r.n_positive, r.n_kept, r.error, r.precision, r.recall, r.roc_auc] for r in of]

    head = ("picks", "positives", "kept", "error", "precision", "recall", "ROC AUC")
    blocks: list[Block] = []
    if e.defocus:
        blocks.append(ReportTable(("defocus", *head), rows(e.defocus), caption="By defocus"))
    caption = "By micrograph"
    blocks.append(
        ReportTable(("micrograph", *head), rows(e.micrographs), caption=caption, folded=len(e.micrographs) > 12)
    )
    return Section("Tables", blocks)
