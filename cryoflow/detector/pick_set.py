"""Picking the micrographs of a pick set: from entries of a database, or files, to picks like those of any job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from cryoflow.detector.bundle import Detector
from cryoflow.detector.calibrate import best_threshold
from cryoflow.detector.estimate_diameter import DiameterEstimate, estimate_diameter
from cryoflow.detector.loading import MicrographToPick, check_diameter, none_usable
from cryoflow.detector.pick import PickedResult, pick
from cryoflow.errors import BadInput
from cryoflow.micrographs.header import believable_pixel_size
from cryoflow.parameters import CALIBRATED
from cryoflow.picks import Kind, PickSet, Provenance
from cryoflow.storage.files import write_if_changed
from cryoflow.storage.folders import make_folder
from cryoflow.wording import counted

_SAME_PIXEL_SIZE = 0.01  # ratios closer to 1 are rounding
_LEAST_EXPECTED_F1 = 0.5  # a worse one is most often that of a wrong diameter

OnPicked = Callable[[PickedResult | BadInput], None]


@dataclass(frozen=True)
class PickReport:
    """Counts and errors of picking some micrographs.

    Attributes
    ----------
    threshold
        Probability from which on picks were kept.
    expected_f1
        F1 that the probabilities promise at this threshold; NaN where the threshold was given.
    diameter
        The estimate, None where the diameter was given.
    failed
        Why micrographs could not be picked.
    n_missing
        Micrographs whose file was not found.
    n_junk
        Peaks that were left out because they lie on junk.
    notes
        Doubts about pixel sizes and the diameter, with numbers.
    """

    threshold: float
    expected_f1: float
    diameter: DiameterEstimate | None
    failed: tuple[BadInput, ...]
    n_missing: int
    n_junk: int
    notes: tuple[str, ...] = ()


def pick_set(
    detector: Detector,
    source: PickSet,
    *,
    diameter_A: float | None = None,
    pixel_size_A: float | None = None,
    threshold: float | None = None,
    name: str = "",
    masks: Path | None = None,
    workers: int = 2,
    on_picked: OnPicked | None = None,
) -> tuple[PickSet, PickReport]:
    """Pick the micrographs of a set; its own picks are not used.

    Parameters
    ----------
    diameter_A
        None takes the set's; where that is unknown too, it is estimated from the micrographs.
    pixel_size_A
        Of all micrographs, whatever their table and headers have; None takes the table's, else the header's. See
        `open_micrograph`.
    threshold
        Least probability; None derives the one of the greatest expected F1 from the probabilities of all micrographs.
    name
        Of the run, part of the entry's name.
    masks
        Folder for one MRC file a micrograph, the probability of junk at each place.

    Raises
    ------
    BadInput
        Where no micrograph can be picked, or masks of two micrographs would have one name.
    """
    items, n_missing = items_of(source, pixel_size_A)
    if masks is not None:
        _check_mask_names(items, masks)
    given = diameter_A or source.diameter_A or detector.diameter_A
    estimate = None
    if given is None:
        estimate = estimate_diameter(detector, items)
        given = estimate.diameter_A
    check_diameter(given)
    results: dict[str, PickedResult] = {}
    failed: list[BadInput] = []
    for result in pick(detector, items, given, masks=masks is not None, workers=workers):
        if isinstance(result, BadInput):
            failed.append(result)
        else:
            if masks is not None:
                write_mask(masks, result)
            results[result.name] = replace(result, junk=None)
        if on_picked:
            on_picked(result)
    if not results:
        raise none_usable(failed)
    everything = np.concatenate([r.probability for r in results.values()])
    promised = float("nan")
    if threshold is None:
        threshold, promised = best_threshold(everything)
    report = PickReport(
        threshold,
        promised,
        estimate,
        tuple(failed),
        n_missing,
        sum(r.n_junk for r in results.values()),
        (*_pixel_size_notes(source, results, pixel_size_A), *_quality_notes(promised, given)),
    )
    return _as_picks(detector, source, results, report, given, name), report


def items_of(source: PickSet, pixel_size_A: float | None) -> tuple[list[MicrographToPick], int]:
    """Return the micrographs of a set that have a file, and how many have none.

    Parameters
    ----------
    pixel_size_A
        Of all of them; None takes each one's from the table.

    Raises
    ------
    BadInput
        Where none has.
    """
    table = source.micrographs
    sizes_A = table["pixel_size_A"].to_numpy(np.float64)
    items: list[MicrographToPick] = []
    for name, path, status, size_A in zip(table["name"], table["path"], table["status"], sizes_A, strict=True):
        if path is not None and status != "missing":
            size = pixel_size_A or (float(size_A) if np.isfinite(size_A) else None)
            items.append(MicrographToPick(str(name), Path(str(path)), size))
    if not items:
        raise BadInput(
            source.provenance.project,
            f"none of its {len(source.micrographs)} micrographs was found.",
            "Were they moved? Ingest again with --remap OLD=NEW.",
        )
    return items, len(source.micrographs) - len(items)


def _pixel_size_notes(source: PickSet, results: dict[str, PickedResult], given_A: float | None) -> list[str]:
    """Return notes on doubtful pixel sizes: others in headers or table, and 1 A from nothing but headers."""
    recorded = dict(zip(source.micrographs["name"].astype(str), source.micrographs["pixel_size_A"], strict=True))
    origin = "given" if given_A else "recorded in the database"
    in_headers = [(r.header_pixel_size_A, r.pixel_size_A) for r in results.values()]
    in_table = [(float(recorded[name]), r.pixel_size_A) for name, r in results.items()]
    notes = [*notes_on_headers(in_headers, origin), *_notes_on_others(in_table, "in the database", origin)]
    if given_A is None:
        # A project may really have 1 A. Of plain files, nothing but the header is known, whatever the table has.
        plain = source.provenance.program == "file"
        from_headers = [
            r.header_pixel_size_A
            for name, r in results.items()
            if r.header_pixel_size_A is not None and (plain or not np.isfinite(recorded[name]))
        ]
        notes += notes_on_unset_headers(from_headers, len(results))
    return notes


def notes_on_headers(sizes_A: Sequence[tuple[float | None, float]], origin: str) -> list[str]:
    """Return a note where headers have another pixel size than the one that is used.

    Parameters
    ----------
    sizes_A
        Of each micrograph that was picked: in the header, and used.
    origin
        Where the used ones are from, such as `given`.
    """
    believable = [(believable_pixel_size(in_header_A), used_A) for in_header_A, used_A in sizes_A]
    return _notes_on_others(believable, "in their headers", origin)


def notes_on_unset_headers(from_headers_A: Sequence[float], n: int) -> list[str]:
    """Return a note where pixel sizes that only headers have, of some of `n` micrographs, are 1 A."""
    unset = sum(abs(size_A - 1) < 1e-3 for size_A in from_headers_A)
    if not unset:
        return []
    return [
        f"{unset} of {counted(n, 'micrograph')} with a pixel size of 1 A from the header, which "
        "many programs write where they do not know it; 1 A is used (--pixel-size sets another)"
    ]


def _notes_on_others(pairs: Sequence[tuple[float | None, float]], where: str, origin: str) -> list[str]:
    others = [(other, used) for other, used in pairs if other and abs(other / used - 1) > _SAME_PIXEL_SIZE]
    if not others:
        return []
    other_A, used_A = (_range_of(values) for values in zip(*others, strict=True))
    return [
        f"{len(others)} of {counted(len(pairs), 'micrograph')} with a pixel size of {other_A} A {where}; "
        f"{used_A} A is used, as {origin}"
    ]


def _quality_notes(expected_f1: float, diameter_A: float) -> list[str]:
    """Return a note where the probabilities promise little; `expected_f1` is NaN where the threshold was given."""
    if not expected_f1 < _LEAST_EXPECTED_F1:
        return []
    return [f"an F1 of only {expected_f1:.2f} is expected: a particle diameter of {diameter_A:.0f} A may be wrong"]


def _range_of(values: Sequence[float]) -> str:
    low, high = f"{min(values):.4g}", f"{max(values):.4g}"
    return low if low == high else f"{low} to {high}"


def write_mask(folder: Path, result: PickedResult) -> Path:
    """Write the probability of junk as an MRC file (float32) of the micrograph's name; its pixels are coarse."""
    from cryoflow.micrographs.image import write_mrc

    assert result.junk is not None
    path = folder / mask_name(result.name)
    make_folder(path.parent)
    # Rounded to whole coarse pixels, rows and columns cover the micrograph at slightly different sizes.
    coarse_y_A, coarse_x_A = (
        result.pixel_size_A * n / n_coarse for n, n_coarse in zip(result.shape_yx, result.junk.shape, strict=True)
    )
    write_mrc(path, result.junk.astype(np.float32), (coarse_y_A, coarse_x_A))
    return path


def mask_name(micrograph: str) -> str:
    """Return the name of the mask of a micrograph."""
    return f"{Path(micrograph).stem}_junk.mrc"


def _check_mask_names(items: Sequence[MicrographToPick], folder: Path) -> None:
    """Refuse two micrographs whose masks would overwrite each other."""
    first: dict[str, MicrographToPick] = {}
    for item in items:
        other = first.setdefault(mask_name(item.name), item)
        if other is not item:
            raise BadInput(
                folder / mask_name(item.name),
                f"would be the mask of both {other.path} and {item.path}.",
                "Pick them in two calls, with an --output each, or leave --masks out.",
            )


def write_boxes(picks: PickSet, folder: Path) -> int:
    """Write one EMAN box file a micrograph: corner, width and height in pixels of the micrograph. Returns how many.

    The box is the set's, else one and a half diameters.
    """
    make_folder(folder)
    names = [Path(str(n)).stem for n in picks.micrographs["name"]]
    sizes = picks.micrographs["pixel_size_A"].to_numpy(np.float64)
    for (row, table), stem, pixel_size_A in zip(picks.by_micrograph(), names, sizes, strict=True):
        diameter_px = (picks.diameter_A or 0) / pixel_size_A if pixel_size_A > 0 else float("nan")
        edge = picks.box_px or (2 * round(0.75 * diameter_px) if np.isfinite(diameter_px) and diameter_px > 0 else 0)
        xy = table[["x_px", "y_px"]].to_numpy(np.float64) - edge / 2
        text = "".join(f"{x:.2f}\t{y:.2f}\t{edge:.0f}\t{edge:.0f}\n" for x, y in xy)
        same = names.index(stem) != row and names.count(stem) > 1
        write_if_changed(folder / (f"{stem}_{row}.box" if same else f"{stem}.box"), text)
    return len(names)


def _as_picks(
    detector: Detector,
    source: PickSet,
    results: dict[str, PickedResult],
    report: PickReport,
    diameter_A: float,
    name: str,
) -> PickSet:
    # Micrographs that failed are counted and reported apart from those without particles.
    micrographs = source.micrographs[source.micrographs["name"].isin(list(results))].reset_index(drop=True)
    tables = []
    for i, name_of in enumerate(micrographs["name"]):
        result = results[str(name_of)]
        micrographs.loc[i, "ny"], micrographs.loc[i, "nx"] = result.shape_yx
        micrographs.loc[i, "pixel_size_A"] = result.pixel_size_A
        keep = result.probability >= report.threshold
        tables.append(
            pd.DataFrame(
                {
                    "micrograph": np.full(int(keep.sum()), i, np.int32),
                    "x_px": result.xy_px[keep, 0],
                    "y_px": result.xy_px[keep, 1],
                    "score": result.probability[keep],
                }
            )
        )
    model = "general" if detector.diameter_A is None else (detector.folder.name if detector.folder else "detector")
    notes = [f"picked with the detector {model} ({detector.fingerprint}) at a diameter of {diameter_A:.0f} A"]
    if report.diameter is not None:
        notes.append(f"the diameter was estimated from {counted(report.diameter.n_micrographs, 'micrograph')}")
    if np.isfinite(report.expected_f1):
        notes.append(f"threshold {report.threshold:.3f}, at which an F1 of {report.expected_f1:.2f} is expected")
    notes += report.notes
    notes += [f"not picked: {error}" for error in report.failed]
    counts = {"on_junk": report.n_junk, "not_picked": len(report.failed), "missing": report.n_missing}
    where = source.provenance
    provenance = Provenance(
        "cryoflow",
        where.project,
        where.project_name,
        name or f"detector-{model}",
        Kind.AUTO_PICK,
        job_type="cryoflow.detector",
        title=notes[0],
    )
    return PickSet.build(
        provenance,
        micrographs,
        pd.concat(tables, ignore_index=True),
        box_px=source.box_px,
        diameter_A=diameter_A,
        score_kind=CALIBRATED,
        counts={k: v for k, v in counts.items() if v},
        notes=tuple(notes),
    )
