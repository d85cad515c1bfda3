"""`info.txt`: what an entry is, one `Name: value` a line; unknown values say `unknown`.

Names that repeat (`Note`, `Source File`, `Missing Micrograph`) make lists. The older scripts' info.txt is read too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from cryoflow.database.values import UNKNOWN, line, number, parse_number, parse_word
from cryoflow.errors import BadInput
from cryoflow.picks import Kind, PickSet, Program, Provenance
from cryoflow.storage.fingerprints import fingerprint
from cryoflow.storage.sealing import refuse_newer

VERSION = 1
_MAGIC = "cryoflow entry "
_MOST_VALUES = 8
Verdict = Literal["not checked", "confirmed", "undecided", "contradicted"]


@dataclass(frozen=True)
class OrientationRecord:
    """Result of comparing the recorded convention of x and y with the pixels.

    `contradicted` means that another of the eight flips and transposes, `best`, clearly wins: such an entry is not
    exported without force.
    """

    verdict: Verdict = "not checked"
    best: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Info:
    """The lines of an info.txt: each name's values, in order, as they stand."""

    lines: Mapping[str, tuple[str, ...]]

    def text(self, name: str) -> str:
        """Return the first value of a name, empty where unknown or absent."""
        for value in self.lines.get(name, ()):
            return _parse_text(value)
        return ""

    def texts(self, name: str) -> tuple[str, ...]:
        """Return all values of a name."""
        return tuple(_parse_text(v) for v in self.lines.get(name, ()))

    def number(self, *names: str) -> float | None:
        """Return the first number under the first of `names` that has one: the most frequent where there are
        several."""
        for name in names:
            for value in self.lines.get(name, ()):
                try:
                    return parse_number(value.split()[0])
                except (ValueError, IndexError):
                    continue
        return None

    def count(self, *names: str) -> int:
        """Return a number that is a count, 0 where it is not declared."""
        return int(self.number(*names) or 0)

    @property
    def counts(self) -> dict[str, int]:
        """Return the number of dropped picks by reason."""
        pattern = re.compile(r"Dropped \((\w+)\)")
        return {m[1]: self.count(name) for name in self.lines if (m := pattern.fullmatch(name))}

    @property
    def orientation(self) -> OrientationRecord:
        """Return the verdict of the orientation check."""
        verdict = self.text("Orientation")
        if verdict not in get_args(Verdict):
            return OrientationRecord()
        return OrientationRecord(cast(Verdict, verdict), self.text("Orientation Best"), self.text("Orientation Detail"))


def info_text(pickset: PickSet, *, job_status: str = "", orientation: OrientationRecord | None = None) -> str:
    """Return the text of an info.txt."""
    p, table = pickset.provenance, pickset.micrographs
    orientation = orientation or OrientationRecord()
    missing = table["name"][(table["status"] == "missing").to_numpy()].tolist()
    shapes = table[["ny", "nx"]].dropna()
    lines: list[tuple[str, str]] = [
        ("Project", line(p.project_name)),
        ("Project Path", line(str(p.project))),
        ("Program", line(p.program)),
        ("Program Version", _text(p.program_version)),
        ("Job", line(p.job)),
        ("Job Type", _text(p.job_type)),
        ("Job Status", _text(job_status)),
        ("Job Title", _text(p.title)),
        ("Kind", p.kind.value),
        ("Output Group", _text(p.output_group)),
        ("Suffix", _text(p.suffix, absent="none")),
        ("Number of Micrographs", str(len(table))),
        ("Number of Micrographs with Particles", str(pickset.picks["micrograph"].nunique())),
        ("Number of Missing Micrographs", str(len(missing))),
        ("Number of Particles", str(len(pickset))),
        ("Voltage (kV)", _numbers(table["voltage_kV"])),
        ("Cs (mm)", _numbers(table["cs_mm"])),
        ("Amplitude Contrast", _numbers(table["amplitude_contrast"])),
        ("Pixel Size (A)", _numbers(table["pixel_size_A"])),
        ("Micrograph Shape (ny x nx)", _frequent(f"{ny}x{nx}" for ny, nx in shapes.itertuples(index=False))),
        ("Box (px)", number(pickset.box_px)),
        ("Diameter (A)", number(pickset.diameter_A)),
        ("Score Kind", _text(pickset.score_kind)),
        *((f"Dropped ({name})", str(n)) for name, n in sorted(pickset.counts.items())),
        ("Orientation", orientation.verdict),
        *([("Orientation Best", line(orientation.best))] if orientation.best else []),
        *([("Orientation Detail", line(orientation.detail))] if orientation.detail else []),
        *(("Note", line(note)) for note in pickset.notes),
        *(("Source File", _source(s.path, s.size_bytes)) for s in p.sources),
        *(("Missing Micrograph", line(name)) for name in missing),
    ]
    return f"{_MAGIC}{VERSION}\n" + "".join(f"{name}: {value}\n" for name, value in lines)


def parse_info(path: Path, text: str) -> Info:
    """Read an info.txt, ours or the older scripts'.

    Raises
    ------
    NewerFormat
        If a newer cryoflow wrote it.
    BadInput
        If its first line is damaged.
    """
    rows = text.removeprefix("\ufeff").split("\n")
    if rows[0].startswith(_MAGIC):
        version = rows[0].removeprefix(_MAGIC).strip()
        if not version.isdigit():
            raise BadInput(path, f"the first line is {rows[0][:60]!r}, expected '{_MAGIC}{VERSION}'.")
        refuse_newer(path, version, VERSION)
        rows = rows[1:]
    found: dict[str, list[str]] = {}
    in_missing = False
    for row in rows:
        stripped = row.strip()
        if stripped.rstrip(":") in ("Missing Micrographs", "$", ""):  # the older scripts' list of names, and its frame
            in_missing = in_missing or stripped.startswith("Missing")
        elif in_missing:
            found.setdefault("Missing Micrograph", []).append(stripped)
        else:
            name, _, value = stripped.partition(":")
            found.setdefault(name.strip(), []).append(value.strip())
    return Info({name: tuple(values) for name, values in found.items()})


def provenance(info: Info) -> Provenance:
    """Return who said where the particles are, without its source files (they stand in the manifest).

    Raises
    ------
    ValueError
        Where the kind or the program is none that is known.
    """
    program = info.text("Program")
    if program not in get_args(Program):
        raise ValueError(f"Program {program!r}")
    return Provenance(
        program=cast(Program, program),
        project=Path(info.text("Project Path")),
        project_name=info.text("Project"),
        job=info.text("Job"),
        kind=Kind(info.text("Kind")),
        job_type=info.text("Job Type"),
        output_group=info.text("Output Group"),
        suffix="" if info.text("Suffix") == "none" else info.text("Suffix"),
        program_version=info.text("Program Version"),
        title=info.text("Job Title"),
    )


def _source(path: Path, size_bytes: int) -> str:
    """Return a source's size and fingerprint; unknown where it changed or went since it was read."""
    try:
        mark = fingerprint(path) if path.stat().st_size == size_bytes else UNKNOWN
    except OSError:
        mark = UNKNOWN
    return f"{size_bytes} bytes, {mark}, {line(str(path))}"


def _text(value: str, *, absent: str = UNKNOWN) -> str:
    return line(value) if value else absent


def _parse_text(value: str) -> str:
    try:
        return parse_word(value) or "" if value.startswith('"') or value == UNKNOWN else value
    except ValueError:
        return value


def _numbers(values: Iterable[float]) -> str:
    return _frequent(number(v) for v in values)


def _frequent(texts: Iterable[str]) -> str:
    """Return distinct values, the most frequent first."""
    tally = Counter(t for t in texts if t != UNKNOWN)
    ordered = sorted(tally, key=lambda t: (-tally[t], t))
    if not ordered:
        return UNKNOWN
    more = f" and {len(ordered) - _MOST_VALUES} more" if len(ordered) > _MOST_VALUES else ""
    return " ".join(ordered[:_MOST_VALUES]) + more
