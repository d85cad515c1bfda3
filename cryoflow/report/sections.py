"""The report of a run, section by section: what the page shows of a database, a model, exports and an evaluation."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoflow.database import Database, Entry
from cryoflow.database.select import select_best
from cryoflow.drawing.charts import PlotLine, precision_recall
from cryoflow.drawing.figures import NEUTRAL
from cryoflow.pickers.comparing.compare import Scores
from cryoflow.pickers.comparing.evaluation_record import read_evaluation
from cryoflow.pickers.training_sets import manifest
from cryoflow.picks import PICK_COLUMNS, Kind, PickSet
from cryoflow.report.example_pictures import EXAMPLES, example, has_image, montages
from cryoflow.report.execution import TraceRow, execution_section
from cryoflow.report.page import Block, Code, Figures, Gallery, Picture, ReportTable, Section, Text
from cryoflow.storage import inputs
from cryoflow.unpicker.bundle import ModelBundle
from cryoflow.unpicker.decision import DOUBTFUL, DOUBTFUL_SUFFIX, JOB_TYPE
from cryoflow.unpicker.operating_point import OperatingPoint
from cryoflow.unpicker.unpick import title_of


@dataclass(frozen=True)
class ReportedScores(Scores):
    """One entry of an evaluation, or all of them together."""

    entry: str = ""
    n_micrographs: int = 0


@dataclass(frozen=True)
class ReportedEvaluation:
    """Record of `flows.evaluation`: entries compared with reference picks."""

    reference_database: Path
    radius: float
    of_test_micrographs: bool
    """Whether only micrographs that the model had not seen were counted."""
    entries: tuple[ReportedScores, ...]

    @classmethod
    def read(cls, file: Path) -> ReportedEvaluation:
        """Read the record from its JSON file."""
        record = read_evaluation(file)
        rows = tuple(
            ReportedScores(r.n_reference, r.n_picks, r.n_matched, entry=r.entry, n_micrographs=len(r.micrographs))
            for r in record.entries
        )
        return cls(Path(record.reference_database), record.radius, record.model is not None, rows)

    def of(self, entry: str) -> ReportedScores | None:
        """Return the row of an entry."""
        return next((row for row in self.entries if row.entry == entry), None)


@dataclass(frozen=True)
class CleanedPair:
    """Picks of a job before and after un-picking."""

    before: Entry
    after: Entry


def cleaned_pairs(entries: Sequence[Entry]) -> list[CleanedPair]:
    """Return the entries of kept picks, each with the entry that it was cleaned from."""
    by_name = {e.name: e for e in entries}
    pairs = []
    for after in entries:
        if after.kind == Kind.UNPICKED and after.suffix.rpartition("_")[2] != DOUBTFUL_SUFFIX:
            before = by_name.get(f"{after.project}/{after.output_group}")
            if before is not None:
                pairs.append(CleanedPair(before, after))
    return pairs


def result_section(pairs: Sequence[CleanedPair], evaluation: ReportedEvaluation | None) -> Section:
    """Return numbers of picks before and after, with precision and recall where the truth is known."""
    blocks: list[Block] = []
    rows: list[list[object]] = []
    for pair in pairs:
        row: list[object] = [pair.before.project, pair.before.n_picks, pair.after.n_picks]
        if evaluation:
            for scored in (evaluation.of(pair.before.name), evaluation.of(pair.after.name)):
                row += [scored and scored.precision, scored and scored.recall]
        rows.append(row)
    head = ["project", "picks", "kept"]
    if evaluation:
        head += ["precision before", "recall before", "precision after", "recall after"]
        before, after = (_pooled([evaluation.of(name(p)) for p in pairs]) for name in (_before, _after))
        shown_on, seen = "micrographs", ""
        if evaluation.of_test_micrographs:
            shown_on, seen = "test micrographs", "The unpicker was neither trained nor tuned on these micrographs. "
        numbers = Figures(
            (
                (f"{before.precision:.0%} → {after.precision:.0%}", "precision", "of all picks, then of the kept"),
                (f"{before.recall:.0%} → {after.recall:.0%}", "recall", "of the true particles"),
                (f"{after.n_micrographs}", shown_on, "that this was measured on"),
            )
        )
        rule = f"A pick matches where it lies within {evaluation.radius:g} diameters of a true particle, one to one."
        blocks += [numbers, Text(seen + rule)]
    caption = "Picks of each project before and after un-picking; counts of all micrographs"
    blocks.append(ReportTable(head, rows, caption=caption))
    return Section("Clean picks", blocks)


def examples_section(
    database: Database,
    pairs: Sequence[CleanedPair],
    model: ModelBundle | None,
    evaluation: ReportedEvaluation | None,
    masks: Path | None = None,
) -> Section:
    """Return micrographs with their kept and removed picks; test micrographs where a model has some."""
    blocks: list[Block] = [
        Text(
            "Green: kept. Blue: kept, but doubtful. Red: removed."
            + (" Amber: true particles that no kept pick lies on." if evaluation else "")
            + (" Hatched: masks of carbon, ice and aggregates." if masks else "")
        )
    ]
    references = Database(evaluation.reference_database) if evaluation else None
    for pair in pairs:
        before, after = database.load(pair.before), database.load(pair.after)
        truth = _reference_of(references, before)
        shown = _in_test_split(model, before) or list(range(len(before.micrographs)))
        blocks.append(
            Gallery([example(before, after, truth, i, masks) for i in shown[:EXAMPLES] if has_image(before, i)])
        )
        blocks += montages(before, after, shown)
    return Section("Micrographs", blocks)


def operating_points_section(database: Database, pairs: Sequence[CleanedPair], model: ModelBundle) -> Section:
    """Return how each project's picks are decided: its curve with the chosen point, and what else to choose."""
    pictures: list[Picture] = []
    rows: list[list[object]] = []
    loaded = [(pair, database.load(pair.after)) for pair in pairs]
    for project, point in sorted(model.projects.items()):
        n_kept = _counter_of_kept([(p, kept) for p, kept in loaded if p.before.project == project], point)
        for choice, (threshold, share, precision, recall) in point.alternatives().items():
            rows.append(
                [project, choice, n_kept(threshold, share), share, precision, recall, f"--threshold {threshold:.3f}"]
            )
        if point.curve:
            x, y = (np.array([row[i] for row in point.curve]) for i in (3, 2))
            at = (point.recall, point.precision)
            curve = PlotLine(x, y, f"threshold {point.threshold:.3f}", NEUTRAL, at)
            labels = f"{point.n_positive} positive, {point.n_negative} negative, {point.n_unlabeled} unlabeled"
            caption = f"{project}: {labels} picks on validation micrographs. The dot is the chosen threshold."
            pictures.append(Picture(precision_recall([curve], title=project), caption))
    priors = [
        [name, p.class_prior, p.class_prior_low, p.class_prior_high]
        for name, p in sorted(model.projects.items())
        if p.n_unlabeled
    ]
    blocks: list[Block] = [
        Text(
            "Each project has its own calibration and threshold. The looser choice loses half as many particles, the "
            "stricter one keeps half as large a share of wrong picks; the last column is the option of cryoflow "
            "unpicker unpick. Kept picks are counted for the chosen threshold and the stricter one, and estimated for "
            "the looser one; all are estimated where the picks were un-picked with another threshold."
        ),
        Gallery(pictures),
        ReportTable(
            ("project", "choice", "kept", "share", "precision", "recall", "option"), rows, caption="Thresholds"
        ),
    ]
    if priors:
        head = ("project", "share of particles", "from", "to")
        blocks.append(ReportTable(head, priors, caption="Particles among the unlabeled picks, with the 95 % interval"))
    doubtful = [[pair.before.project, kept.counts.get("doubtful"), pair.before.n_picks] for pair, kept in loaded]
    caption = f"Doubtful picks, of a probability of {DOUBTFUL[0]:g} to {DOUBTFUL[1]:g}, kept or not"
    blocks.append(ReportTable(("project", "doubtful", "picks"), doubtful, caption=caption))
    return Section("Thresholds", blocks)


def _counter_of_kept(
    pairs: Sequence[tuple[CleanedPair, PickSet]], point: OperatingPoint
) -> Callable[[float, float], int | None]:
    """Return a function that counts the picks that a threshold keeps, or estimates them from the share that it keeps
    of validation picks: scores are known of kept picks alone."""
    unpicked = [(pair.before.n_picks, kept) for pair, kept in pairs if pair.after.job_type == JOB_TYPE]
    if not unpicked or not point.curve:
        return lambda _threshold, _share: None
    at_point = [pair for pair in unpicked if pair[1].provenance.title.endswith(title_of(point.threshold))]
    n_before, kept = (at_point or unpicked)[-1]
    if not at_point:
        return lambda _threshold, share: round(share * n_before)
    # Scores are rounded where they are stored; a pick at the threshold is kept.
    scores = kept.picks["score"].to_numpy() + 10.0 ** -PICK_COLUMNS["score"].decimals
    share_of_chosen = point.alternatives()["chosen"][1]

    def n_kept(threshold: float, share: float) -> int:
        if threshold < point.threshold:
            return len(kept) + max(0, round((share - share_of_chosen) * n_before))
        return int((scores >= threshold).sum())

    return n_kept


def training_section(model: ModelBundle) -> Section:
    """Return how the model was trained, and how well it does on its validation micrographs."""
    blocks: list[Block] = []
    curves = (model.folder or Path()) / "learning_curves.png"
    if curves.is_file():
        caption = "Learning curves; the dotted line is the epoch that was kept"
        blocks.append(Picture(inputs.read_bytes(curves), caption=caption))
    parts = ("train", "validation", "test")
    rows: list[list[object]] = []
    for data_set in sorted({r.data_set for r in model.manifest}):
        for part in parts:
            members = [r for r in model.manifest if (r.data_set, r.part) == (data_set, part)]
            counts = [sum(getattr(r, f) for r in members) for f in ("n_positive", "n_negative", "n_unlabeled")]
            rows.append([data_set, part, len(members), *counts])
    head = ("data set", "part", "micrographs", "positive", "negative", "unlabeled")
    blocks.append(ReportTable(head, rows, caption="Labeled picks, split by micrograph"))
    measures = [[name.replace("_", " "), float(value)] for name, value in model.metrics.items()]
    blocks.append(ReportTable(("measure", "value"), measures, caption=f"The model in {model.folder}", folded=True))
    return Section("The unpicker's training", blocks)


def database_section(database: Database) -> Section:
    """Return what was read, and which job of each project is the one to train from."""
    best = [[s.project, s.entry.name if s.entry else "", s.reason] for s in select_best(database)]
    rows = [
        [e.name, e.n_picks, e.n_micrographs, e.pixel_size_A, e.box_px, e.diameter_A, e.orientation.verdict, e.status]
        for e in database.entries()
    ]
    head = ("entry", "picks", "micrographs", "pixel size (Å)", "box (px)", "diameter (Å)", "orientation", "status")
    return Section(
        "The database",
        (
            Text(f"{len(rows)} entries in {database.root}, each a folder of text files."),
            ReportTable(
                ("project", "best entry", "why"), best, caption="The job of each project to train pickers from"
            ),
            ReportTable(head, rows, caption="All entries", folded=len(rows) > 12),
        ),
    )


def exports_section(folders: Sequence[Path]) -> Section:
    """Return the training sets that were written: how many micrographs and picks, and each setting with its reason."""
    blocks: list[Block] = []
    for folder in folders:
        table = manifest.read_manifest(folder / manifest.NAME)
        splits = ", ".join(f"{n} {split}" for split, n in table["split"].value_counts(sort=False).items())
        numbers = f"{int(table['n_picks'].sum()):,} picks on {len(table)} micrographs ({splits})"
        blocks.append(Text(f"{folder.name}: {numbers}, in {folder}"))
        settings = manifest.settings_table(folder)
        blocks.append(
            ReportTable(
                ("setting", "value", "why"),
                settings.to_numpy().tolist(),
                caption=f"Settings for {folder.name}, derived from the data",
                folded=True,
            )
        )
    return Section("Training sets for pickers", blocks)


def next_section(database: Path, model: Path | None) -> Section:
    """Return what to type next, as a shell takes it."""
    db = shlex.quote(str(database))
    lines = [f"cryoflow database list --database {db}", f"cryoflow database verify --database {db}"]
    if model:
        folder = shlex.quote(str(model))
        lines += [
            f"cryoflow unpicker info {folder}",
            f"cryoflow unpicker unpick {folder} ENTRY --database {db} --output clean",
        ]
    lines.append("cryoflow run /path/to/your/projects --output run")
    return Section("What to do next", (Code("\n".join(lines)),))


def _before(pair: CleanedPair) -> str:
    return pair.before.name


def _after(pair: CleanedPair) -> str:
    return pair.after.name


def _pooled(rows: Sequence[ReportedScores | None]) -> ReportedScores:
    """Return all picks of all projects together."""
    known = [r for r in rows if r is not None]
    return ReportedScores(
        sum(r.n_reference for r in known),
        sum(r.n_picks for r in known),
        sum(r.n_matched for r in known),
        entry="all",
        n_micrographs=sum(r.n_micrographs for r in known),
    )


def _reference_of(references: Database | None, picks: PickSet) -> PickSet | None:
    if references is None:
        return None
    found = next((e for e in references.entries() if e.project_path == picks.provenance.project), None)
    return references.load(found) if found else None


def _in_test_split(model: ModelBundle | None, picks: PickSet) -> list[int]:
    names = {r.name for r in model.manifest if r.part == "test"} if model else set()
    return [i for i, name in enumerate(picks.micrographs["name"]) if name in names]


def report_sections(
    database: Database,
    *,
    model: ModelBundle | None,
    exports: Sequence[Path],
    evaluation: ReportedEvaluation | None,
    trace: Sequence[TraceRow] = (),
    masks: Path | None = None,
) -> list[Section]:
    """Return all sections, those that there is nothing to show for left out."""
    pairs = cleaned_pairs(database.entries())
    sections = []
    if pairs:
        sections += [result_section(pairs, evaluation), examples_section(database, pairs, model, evaluation, masks)]
    if model:
        if model.projects:
            sections.append(operating_points_section(database, pairs, model))
        sections.append(training_section(model))
    sections.append(database_section(database))
    if exports:
        sections.append(exports_section(exports))
    if trace:
        sections.append(execution_section(trace))
    sections.append(next_section(database.root, model.folder if model else None))
    return sections
