"""The JSON file of an evaluation, which the report and a pipeline that goes on read back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from cryoflow.storage.parsing import read_record

_Count = Annotated[int, Ge(0)]


@dataclass(frozen=True)
class MicrographRecord:
    """One micrograph of an entry; `name` as the picks' project has it."""

    name: str
    n_reference: _Count
    n_picks: _Count
    n_matched: _Count


@dataclass(frozen=True)
class EntryRecord:
    """One entry against its reference."""

    entry: str
    n_reference: _Count
    n_picks: _Count
    n_matched: _Count
    micrographs: tuple[MicrographRecord, ...]


@dataclass(frozen=True)
class EvaluationRecord:
    """Fields of the file that are read; pydantic ignores the rest.

    Attributes
    ----------
    radius
        Distance within which a pick matches, in particle diameters.
    model
        The model whose training micrographs were left out; None where all were compared.
    """

    __pydantic_config__ = {"allow_inf_nan": False}  # read by pydantic

    entries: tuple[EntryRecord, ...]
    reference_database: str
    radius: float
    model: str | None


def read_evaluation(file: Path) -> EvaluationRecord:
    """Read the file of an evaluation.

    Raises
    ------
    BadInput
        If it is not one; says which value is wrong.
    """
    return read_record(file, EvaluationRecord, "Remove it, and evaluate again.")
