"""Our values as JSON has them, for whatever leaves the program as text: `--json`, records on disk, Prefect's tables."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path


def plain(value: object) -> object:
    """Return a value as JSON has it: dataclasses as objects, paths as text, enums by value, NaN and NA as None."""
    if value is None or (isinstance(value, bool | str) and not isinstance(value, Enum)):
        return value
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, Path | BaseException):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if hasattr(value, "model_dump"):  # pydantic's models
        return plain(value.model_dump())
    if isinstance(value, Mapping):
        return {str(plain(k)): plain(v) for k, v in value.items()}
    if hasattr(value, "tolist"):  # NumPy's scalars and arrays
        return plain(value.tolist())
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, set | frozenset):
        return sorted((plain(v) for v in value), key=str)
    if isinstance(value, Iterable):
        return [plain(v) for v in value]
    return None if type(value).__name__ in ("NAType", "NaTType") else str(value)
