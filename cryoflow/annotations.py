"""What the types and the strings below the fields of a dataclass declare: metadata, limits, docstrings."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
import types
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen

from cryoflow.system import garbage_collector


def metadata_of(annotation: Any) -> Iterator[object]:
    """Yield the metadata of an annotation, those of inner types first."""
    if get_origin(annotation) is Annotated:
        inner, *items = get_args(annotation)
        yield from metadata_of(inner)
        yield from items
    elif get_origin(annotation) in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from metadata_of(member)


def without_metadata(annotation: Any) -> Any:
    """Return a type without the metadata of its own and of its inner types."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return without_metadata(arguments[0])
    if origin is None or origin is Literal:
        return annotation
    bare = tuple(a if a is Ellipsis else without_metadata(a) for a in arguments)
    if origin in (Union, types.UnionType):
        return Union[bare]  # noqa: UP007  # made at run time
    return origin[bare]


def limits_in_words(limits: Iterable[object]) -> str:
    """Return limits of a value as words, such as `at least 1, less than 5`."""
    words = []
    for limit in limits:
        match limit:
            case Ge(value) | MinLen(value):
                words.append(f"at least {value}")
            case Gt(value):
                words.append(f"more than {value}")
            case Le(value):
                words.append(f"at most {value}")
            case Lt(value):
                words.append(f"less than {value}")
    return ", ".join(words)


@cache
def attribute_docstrings(declaration: type) -> dict[str, str]:
    """Return the string that stands below each field, by the field's name."""
    try:
        with garbage_collector.paused():  # `inspect` parses the whole module
            tree = ast.parse(textwrap.dedent(inspect.getsource(declaration)))
    except (OSError, TypeError, SyntaxError):  # made at run time: the help of its types is what there is
        return {}
    docs = {}
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    for field, below in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            text = below.value.value if isinstance(below.value, ast.Constant) else None
            if isinstance(text, str):
                docs[field.target.id] = inspect.cleandoc(text)
    return docs
