"""`cryoflow unpicker evaluate`, `suggest` and `info`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cryoflow.cli import output as out
from cryoflow.cli.declared import declared
from cryoflow.cli.unpicker_input import any_picks, ending, labeled, warn_coverage
from cryoflow.errors import BadInput, ExitCode
from cryoflow.unpicker.parameters import EvaluateUnpickerParameters, ModelInfoParameters, SuggestParameters

if TYPE_CHECKING:
    from cryoflow.unpicker.bundle import ModelBundle


def _unpicker(model: Path, instead: str) -> ModelBundle:
    """Load an unpicker; refuse a detector, which cleans picks, too, but whose commands are others."""
    from cryoflow.detector.bundle import is_detector
    from cryoflow.unpicker.bundle import ModelBundle

    if is_detector(model):
        raise out.UsageError(f"{model} is a detector, not an unpicker: {instead}.")
    return ModelBundle.load(model)


@declared
def evaluate(parameters: EvaluateUnpickerParameters, *, json: out.Json = False) -> int:
    """Measure a model on labeled micrographs that were used for nothing else."""
    from cryoflow.models.find_model import with_model
    from cryoflow.unpicker.evaluate import evaluate as run

    p = with_model(parameters)
    bundle = _unpicker(p.model, "`cryoflow detector evaluate` measures it")
    known, bad = labeled(p, p.diameter_A or bundle.diameter_A)
    with out.progress("evaluate", len(known.micrographs)) as advance:
        result = run(bundle, known, orientations=p.orientations, workers=p.workers, on_scored=lambda _: advance())
    numbers = result.numbers()
    rows = [{"measure": k, "value": v.value, "low": v.low, "high": v.high} for k, v in numbers.items()]
    if json:
        out.emit_json(
            {
                "model": p.model,
                "threshold": result.threshold,
                "n_picks": result.n_picks,
                "n_positive": result.n_positive,
                "measures": {k: {"value": v.value, "low": v.low, "high": v.high} for k, v in numbers.items()},
                "micrographs": result.micrographs,
                "defocus": result.defocus,
                "calibration": result.calibration,
                "warnings": result.warnings,
                "failed": result.failed,
            }
        )
    elif p.table == "summary":
        out.emit_table(rows, title=f"{result.n_picks} picks on {len(result.micrographs)} test micrographs")
    else:
        out.emit_table(getattr(result, p.table))
    if p.report:
        from cryoflow.report.evaluation_report import evaluation_sections
        from cryoflow.report.page import write_report

        write_report(p.report, "Unpicker evaluation", evaluation_sections(result, bundle), subtitle=str(p.model))
        out.say(f"report: {p.report}")
    for warning in result.warnings:
        out.say(f"warning: {warning}")
    return ending([*bad, *result.failed], len(result.micrographs))


@declared
def suggest(parameters: SuggestParameters, *, json: out.Json = False) -> int:
    """Name the micrographs whose cleaning by hand would teach the model most."""
    from cryoflow.models.find_model import with_model
    from cryoflow.preparation.patches import require_ctf
    from cryoflow.unpicker.scoring import ScoredMicrograph, score
    from cryoflow.unpicker.suggest import not_cleaned
    from cryoflow.unpicker.suggest import suggest as run

    p = with_model(parameters)
    bundle = _unpicker(p.model, "it learns from projects as they are (`cryoflow detector update`)")
    found, bad = any_picks(p, p.diameter_A or bundle.diameter_A)
    require_ctf(bundle.preprocessing, found)
    free = not_cleaned(bundle, found)
    if len(free) < len(found):
        out.say(f"note: {len(found) - len(free)} of {len(found)} micrographs have labels already")
    scored: list[ScoredMicrograph] = []
    with out.progress("suggest", len(free)) as advance:
        for result in score(bundle, free, workers=p.workers):
            (bad if isinstance(result, BadInput) else scored).append(result)  # type: ignore[arg-type]
            advance()
    warn_coverage(bundle, free)
    out.emit_table(
        run(bundle, scored, number=p.number),
        columns=("name", "data_set", "n_picks", "n_kept", "n_doubtful", "n_errors", "defocus_A", "why"),
        as_json=json,
    )
    return ending(bad, len(found) - len(free) + len(scored))


@declared
def info(parameters: ModelInfoParameters, *, json: out.Json = False) -> int:
    """Describe a model: network, preprocessing, what it was trained on, how good it is."""
    from cryoflow.models.find_model import find_model

    b = _unpicker(find_model(parameters.model), "`cryoflow detector info` describes it")
    low, high = b.defocus_range_A
    parts = {part: [r for r in b.manifest if r.part == part] for part in ("train", "validation", "test")}
    record: dict[str, object] = {
        "model": parameters.model,
        "architecture": b.architecture.to_json(),
        "n_weights": int(sum(w.size for w in b.weights.values())),
        "preprocessing": b.preprocessing.to_json(),
        "diameter_A": b.diameter_A,
        "temperature": b.temperature,
        "threshold": b.threshold,
        "data_sets": sorted({r.data_set for r in b.manifest}),
        **{f"{part}_micrographs": len(rows) for part, rows in parts.items()},
        "train_positive": sum(r.n_positive for r in parts["train"]),
        "train_negative": sum(r.n_negative for r in parts["train"]),
        "train_unlabeled": sum(r.n_unlabeled for r in parts["train"]),
        "defocus_um": [low / 1e4, high / 1e4],
        "metrics": dict(b.metrics),
        "options": dict(b.options),
        "versions": dict(b.versions),
        "fingerprint": b.fingerprint,
    }
    out.emit_record(record, as_json=json)
    return ExitCode.OK
