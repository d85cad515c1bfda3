"""JSON, YAML and TOML of others as plain values, within the budgets of `cryoflow.storage.budgets`."""

from __future__ import annotations

import functools
import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cryoflow.errors import BadInput, OverBudget
from cryoflow.storage import budgets, inputs

if TYPE_CHECKING:
    import yaml
    from pydantic import TypeAdapter

T = TypeVar("T")


def read_json(path: Path) -> object:
    """Read a JSON file.

    Raises
    ------
    BadInput
        If the file is not JSON.
    OverBudget
        If its values would take more memory than `budgets.MEMORY_BYTES`.
    OSError
        If it cannot be read.
    """
    return parse_json(path, inputs.read_bytes(path, at_most=budgets.JSON_BYTES))


def parse_json(path: str | Path, raw: bytes | str) -> object:
    """Parse the text of a JSON file; raises as `read_json`."""
    raw = raw.encode(errors="surrogateescape") if isinstance(raw, str) else raw
    budgets.check_json(path, raw)
    try:
        return json.loads(raw)
    except RecursionError:
        raise OverBudget(path, "it is nested too deeply for JSON.") from None
    except ValueError as error:  # also numbers of more than 4300 digits, and text in another encoding
        raise BadInput(path, f"it is not JSON: {str(error)[:200]}.") from None


def read_record(path: Path, kind: type[T], hint: str = "") -> T:
    """Read a JSON file into a dataclass, a pydantic model or a type such as `dict[str, int]`.

    Raises
    ------
    BadInput
        If the file cannot be read, is not JSON, or a value has another type than `kind` declares; says which value.
    """
    try:
        return parse_record(path, inputs.read_bytes(path, at_most=budgets.JSON_BYTES), kind, hint)
    except OSError as error:
        raise BadInput(path, f"cannot be read: {error.strerror or error}.", hint) from error


def parse_record(path: str | Path, raw: bytes | str, kind: type[T], hint: str = "") -> T:
    """Parse the text of a JSON file into a type; raises `BadInput` as `read_record`."""
    return validated(path, parse_json(path, raw), kind, hint)


def validated(path: str | Path, values: object, kind: type[T], hint: str = "") -> T:
    """Return values as an instance of a type.

    Raises
    ------
    BadInput
        If a value is missing or has another type than `kind` declares; says which.
    """
    from pydantic import ValidationError

    try:
        checked: T = _adapter(kind).validate_python(values)  # type: ignore[arg-type]  # types are hashable
        return checked
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))[:100] or "its content"
        raise BadInput(path, f"{where}: {first['msg'][:1].lower()}{first['msg'][1:200]}.", hint) from None


@functools.cache  # to build one takes longer than to read a record
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """Return what checks values against a type."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def read_yaml(path: Path) -> object:
    """Read a YAML file without tags, of plain values only.

    Raises
    ------
    BadInput
        If the file is not YAML, or names Python objects.
    OverBudget
        If it is nested deeper than `budgets.DEEPEST`, or its aliases repeat too many values.
    OSError
        If it cannot be read.
    """
    import yaml

    raw = inputs.read_bytes(path, at_most=budgets.YAML_BYTES)
    try:
        budgets.check_yaml(path, raw, yaml.parse(raw, Loader=_yaml_loader()))
        loader = _yaml_loader()(raw)
        try:
            values: object = loader.get_single_data()
            return values
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:
        what = " ".join(str(error).split())[:200]
        raise BadInput(path, f"it is not YAML: {what}.") from None
    except RecursionError:
        raise OverBudget(path, "it is nested too deeply for YAML.") from None


def _yaml_loader() -> type[yaml.SafeLoader]:
    """Return the safe loader, in C where PyYAML was built with libyaml."""
    import yaml

    loader: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return loader


def parse_toml(path: Path, raw: bytes) -> dict[str, object]:
    """Parse the text of a TOML file.

    Raises
    ------
    BadInput
        If the text is not TOML.
    OverBudget
        If it is nested deeper than `budgets.DEEPEST`, or a line has too many dots.
    """
    # tomllib takes time with the square of the number of names in a dotted key.
    if max(row.count(b".") for row in raw.split(b"\n")) > budgets.MOST_DOTS:
        raise OverBudget(path, f"it has a line of more than {budgets.MOST_DOTS} dots.")
    try:
        values = tomllib.loads(raw.decode().replace("\r\n", "\n"))
    except RecursionError:
        raise OverBudget(path, f"it is nested deeper than {budgets.DEEPEST} levels.") from None
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError, and numbers of more than 4300 digits
        raise BadInput(path, f"it is not TOML: {str(error)[:200]}.") from None
    budgets.check_nesting(path, values)
    return values
