"""Quote values for sbatch's directives and for the mounts of containers. Shell commands are quoted by `shlex` alone."""

from __future__ import annotations

import re
from pathlib import Path

from cryoflow.errors import BadInput

_NEEDS_NO_QUOTES = re.compile(r"[A-Za-z0-9_./:=,@%+-]+")


def directive(option: str) -> str:
    r"""Return one `#SBATCH` line.

    sbatch parses it by rules of its own: double quotes keep everything, `\` keeps the next character.

    Raises
    ------
    BadInput
        For a line break, which cannot be quoted.

    >>> directive('--job-name=a "b"')
    '#SBATCH "--job-name=a \\"b\\""'
    """
    if any(character in option for character in "\n\r\0"):
        raise BadInput("sbatch", f"the option {option!r} has a line break in it, which sbatch cannot be given.")
    if not _NEEDS_NO_QUOTES.fullmatch(option):
        option = '"' + re.sub(r'(["\\])', r"\\\1", option) + '"'
    return f"#SBATCH {option}"


def mount(folder: str | Path, *, read_only_flag: str = "") -> str:
    """Return the value of `--mount` that shows a folder at its own path, for Docker and Apptainer.

    The value is a line of CSV, so colons, commas and quotes in a path do no harm; `--bind` and `--volume` cannot quote.

    Parameters
    ----------
    read_only_flag
        `ro` for Apptainer, `readonly` for Docker; empty mounts the folder writable.

    >>> mount("/a, b", read_only_flag="ro")
    'type=bind,"source=/a, b","destination=/a, b",ro'
    """
    fields = ["type=bind", f"source={folder}", f"destination={folder}", *filter(None, [read_only_flag])]
    return ",".join('"' + f.replace('"', '""') + '"' if set(f) & set(',"') else f for f in fields)
