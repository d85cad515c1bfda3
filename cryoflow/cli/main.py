"""The command `cryoflow`: the table of its commands, the options of all, and exit codes.

Commands live beside this file, one module a group, and are named here by text, so that a module is imported only when
its command is used. Such a module imports its heavy parts (NumPy, pandas, Prefect, TensorFlow) inside its functions:
that keeps every `--help` fast. `cryoflow.cli.output` prints their results.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from cyclopts import App, ArgumentCollection, Group, Parameter, Token

import cryoflow
from cryoflow.cli.declared import default_in_help, name_arguments
from cryoflow.errors import CryoflowError, ExitCode
from cryoflow.system import memory
from cryoflow.system.working_folder import MATPLOTLIB_FILE, pass_over_matplotlibrc

log = logging.getLogger(__name__)

START, DATA, PICKING, RUNNING = (
    Group(title, sort_key=i)
    for i, title in enumerate(("Start here", "Projects and picks", "Picking", "Running and watching"))
)

COMMANDS: tuple[tuple[str, str, Group, str], ...] = (
    ("demo", "cryoflow.cli.demo:demo", START, "Run the pipeline on two simulated projects (1 minute)."),
    ("doctor", "cryoflow.cli.doctor:doctor", START, "Check this machine and this installation."),
    ("settings", "cryoflow.cli.settings:app", START, "Show every setting and the source of its value."),
    ("simulate", "cryoflow.cli.simulate:simulate", START, "Write simulated projects whose true particles are known."),
    ("crawl", "cryoflow.cli.ingest:crawl", DATA, "List the RELION and CryoSPARC projects and jobs below folders."),
    ("ingest", "cryoflow.cli.ingest:ingest", DATA, "Read the picks of finished projects into a database."),
    ("database", "cryoflow.cli.database:app", DATA, "List, show, select and verify the entries of a database."),
    ("view", "cryoflow.cli.view:view", DATA, "Show picks in a browser; --write also lets you clean them."),
    ("export", "cryoflow.cli.export:app", DATA, "Write training sets for pickers: crYOLO, Topaz and others."),
    ("pick", "cryoflow.cli.detector:pick", PICKING, "Pick particles with the detector; no labels, no training."),
    ("detector", "cryoflow.cli.detector:app", PICKING, "Train, run and evaluate cryoflow's own particle detector."),
    ("picker", "cryoflow.cli.picker:app", PICKING, "Train pickers, run them and import their picks."),
    ("unpicker", "cryoflow.cli.unpicker:app", PICKING, "Train the network that removes wrong picks, and use it."),
    ("improve", "cryoflow.cli.learning:improve", PICKING, "Improve a picker on new micrographs, without labels."),
    ("model", "cryoflow.cli.model:app", PICKING, "List, compare and switch versions of trained models."),
    ("evaluate", "cryoflow.cli.evaluate:evaluate", PICKING, "Compare picks with reference picks."),
    ("run", "cryoflow.cli.run:run", RUNNING, "Run the whole pipeline on your own projects."),
    ("up", "cryoflow.cli.cluster:up", RUNNING, "Start the Prefect server, the workers and the viewer."),
    ("deploy", "cryoflow.cli.cluster:deploy", RUNNING, "Register the flows on the site's Prefect server."),
    ("site", "cryoflow.cli.site:app", RUNNING, "Write a cryoflow.toml for this SLURM cluster."),
    ("trace", "cryoflow.cli.cluster:trace", RUNNING, "Show time, memory and exit status of each stage of a run."),
    ("report", "cryoflow.cli.report:report", RUNNING, "Write the report of a database as one HTML page."),
)
"""Name, home (a function, or an `App` of that name), group and one line of help. A new command is one line here."""


def fill_from_settings(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Give options that were not written their values from the settings (`cryoflow.settings.load`).

    A setting belongs to the option that bears its name, as its first name or as an alias.
    """
    from cryoflow.settings.settings_files import nothing_is_set

    if nothing_is_set():  # to load and check them takes a fifth of a second
        log.info("settings file: none")
        return
    from cryoflow.settings.load import load_settings

    if _commands[:2] in (("settings", "trust"), ("settings", "untrust"), ("settings", "trusted")):
        return  # `settings trust` and `doctor` must run with a file that is not trusted
    open_options = {
        name.removeprefix("--").replace("-", "_"): argument
        for argument in arguments
        if not argument.tokens
        for name in argument.names
    }
    loaded = load_settings(crawled=_crawled(arguments))
    log.info("settings file: %s", loaded.file or "none")
    for name, origin in loaded.origins.items():
        if name in open_options and origin != "default":
            value = getattr(loaded.settings, name)
            for i, text in enumerate(value if isinstance(value, tuple) else (value,)):
                open_options[name].append(Token(keyword=name, value=str(text), source=origin, index=i))


def _crawled(arguments: ArgumentCollection) -> list[Path]:
    """Return the folders that a command is to search for projects."""
    return [
        Path(token.value)
        for argument in arguments
        if argument.field_info.name.upper() in ("ROOT", "ROOTS")
        for token in argument.tokens
    ]


EVERYWHERE = """Every command takes:
  -v, --verbose  print on stderr what is being done
  -q, --quiet    print results and errors only
  --config FILE  take the settings from this file
  --debug        print everything, with the traceback of an error (or CRYOFLOW_DEBUG=1)
Exit codes: 0 done, 1 failed, 2 usage error, 3 partly failed."""

app = App(
    name="cryoflow",
    version=cryoflow.__version__,
    help="From finished cryo-EM projects to trained particle pickers and clean picks.",
    help_format="plaintext",
    help_epilogue=EVERYWHERE,
    default_parameter=Parameter(show_default=default_in_help),
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    config=(fill_from_settings,),
)
for _order, (_name, _where, _group, _help) in enumerate(COMMANDS):
    app.command(_where, name=_name, group=_group, help=_help, sort_key=_order)

app.register_install_completion_command(
    help="Install the completion of commands and options for this shell.", group="Parameters"
)

_OF_OUTPUT = {
    errno.EBADF: "standard output is closed",
    errno.ENOSPC: "the disk of standard output is full",
    errno.EDQUOT: "the quota of standard output's disk is used up",
}
"""Reasons of errors without a file's name: `cryoflow.storage` names the files that it writes, `print` does not."""
INTERRUPTED = 130  # as shells have it for a program that SIGINT ended
FLAGS = {"-v": "verbose", "--verbose": "verbose", "-q": "quiet", "--quiet": "quiet", "--debug": "debug"}


def launch(arguments: Sequence[str]) -> int:
    """Run one command, turn what it raises into one line on stderr, and return the exit code.

    The flags that every command shares are taken out first, wherever they stand before a `--`.
    """
    try:
        return _launch(arguments)
    except Exception as error:  # before the command began, or while its error was put into words
        if not (lack := memory.shortage(error)):
            raise
        print(f"cryoflow: {lack}", file=sys.stderr)
        return ExitCode.FAILED


def _launch(arguments: Sequence[str]) -> int:
    from cryoflow.cli import output

    _open_standard_streams()
    end = arguments.index("--") if "--" in arguments else len(arguments)
    flags = {FLAGS[a] for a in arguments[:end] if a in FLAGS}
    tokens = [a for a in arguments[:end] if a not in FLAGS] + list(arguments[end:])
    try:
        tokens = _take_config(tokens)
    except ValueError as error:
        print(f"cryoflow: {error}", file=sys.stderr)
        return ExitCode.USAGE
    debug = "debug" in flags or os.environ.get("CRYOFLOW_DEBUG", "0") not in ("", "0")
    output.set_up(verbose="verbose" in flags, quiet="quiet" in flags, debug=debug)
    try:
        if not {"--help", "-h", "--version"}.intersection(tokens):
            memory.require(memory.LEAST_TO_READ)  # with less, loading SciPy may not end
        elif "--version" not in tokens:
            name_arguments(app, tokens)
        if pass_over_matplotlibrc():
            log.warning("%s: not used, since anybody may have put it there.", MATPLOTLIB_FILE)
        result = app(tokens)
        sys.stdout.flush()  # a full disk, or a closed stdout, is an error of the command
        return result if isinstance(result, int) else ExitCode.OK
    except BrokenPipeError:  # the reader of our output, such as `head`, had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            import traceback

            traceback.print_exc()
        code, message = _code_and_message(error)
        print(f"cryoflow: {output.visible(message)}", file=sys.stderr)
        return code


def _open_standard_streams() -> None:
    """Open standard streams that the caller closed (`>&-`), so that no other file gets their number.

    Printing to a closed stdout is then an error, as with other programs; what goes to a closed stderr is lost.
    """
    for number, name, flags in ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_RDONLY), (2, "stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, flags)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            # Opened for reading: a write to it fails with "Bad file descriptor".
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115


def _take_config(tokens: list[str]) -> list[str]:
    """Take `--config FILE` out of the arguments; processes that this command starts read the same file."""
    end = tokens.index("--") if "--" in tokens else len(tokens)
    for i, token in enumerate(tokens[:end]):
        name, equals, value = token.partition("=")
        if name == "--config":
            rest = tokens[i + 1 :] if equals else tokens[i + 2 :]
            file = value if equals else next(iter(tokens[i + 1 : end]), "")
            if not file:
                raise ValueError("--config needs the name of a settings file.")
            os.environ["CRYOFLOW_CONFIG"] = os.path.abspath(file)  # noqa: PTH100
            return [*tokens[:i], *rest]
    return tokens


def _code_and_message(error: BaseException) -> tuple[int, str]:
    from cryoflow.cli.output import UsageError

    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted; what was written is complete, run the same command again to go on."
    if isinstance(error, CryoflowError):
        return ExitCode.USAGE if isinstance(error, UsageError) else ExitCode.FAILED, str(error)
    if lack := memory.shortage(error):
        return ExitCode.FAILED, lack
    if isinstance(error, OSError) and not error.filename and error.errno in _OF_OUTPUT:
        return ExitCode.FAILED, f"what was printed could not be written: {_OF_OUTPUT[error.errno]}."
    if isinstance(error, OSError):
        return ExitCode.FAILED, f"{error.filename}: {error.strerror}" if error.filename else str(error)
    what = f"{type(error).__name__}: {error}".splitlines()[0]
    return ExitCode.FAILED, f"a defect of cryoflow ({what}). Please report it with what --debug prints."


def main() -> None:
    """Run the console script `cryoflow`."""
    signal.signal(signal.SIGTERM, _terminated)
    code = launch(sys.argv[1:])
    try:
        sys.stdout.flush()
    except (OSError, ValueError):  # reported already; the interpreter would print it again
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(code)


def _terminated(_number: int, _frame: object) -> None:
    """End as with Ctrl-C, so that locks are released: `scancel`, `systemctl stop` and `timeout` send SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second SIGTERM ends the process at once
    raise KeyboardInterrupt
