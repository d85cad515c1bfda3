"""The command line as a user and a script meet it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import pytest
from cyclopts import App, Parameter

from cryoflow.cli import main, output
from cryoflow.cli.main import COMMANDS, launch
from cryoflow.cli.reference import reference
from cryoflow.errors import BadInput, ExitCode
from cryoflow.parameters import fields_of
from cryoflow.picks import Kind
from cryoflow.storage.json_values import plain

HEAVY = ("numpy", "pandas", "pydantic", "prefect", "tensorflow", "keras", "matplotlib", "scipy")


def _modules_after(*arguments: str) -> set[str]:
    """What a fresh interpreter has imported after one command."""
    code = (
        "import sys\n"
        "from cryoflow.cli.main import launch\n"
        "try:\n    launch(sys.argv[1:])\n"
        "except SystemExit:\n    pass\n"
        "print('MODULES', *sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return set(done.stdout.rsplit("MODULES ", 1)[1].split())


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name, *_ in COMMANDS)], ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    assert not _modules_after(*arguments) & set(HEAVY)


@pytest.mark.parametrize("where", [where for _, where, *_ in COMMANDS])
def test_every_command_named_in_the_table_exists(where: str) -> None:
    module, _, attribute = where.partition(":")
    assert importlib.util.find_spec(module)
    assert callable(getattr(importlib.import_module(module), attribute))


@pytest.mark.parametrize("name", [name for name, *_ in COMMANDS])
def test_help_of_every_command_says_more_than_its_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch([name, "--help"]) == ExitCode.OK
    printed = capsys.readouterr().out
    assert f"Usage: cryoflow {name}" in printed
    assert "Exit codes" in printed


@pytest.mark.parametrize(
    ("words", "usage", "default"),
    [
        ("run", "cryoflow run --output PATH [OPTIONS] ROOTS...", "[default: cryolo topaz]"),
        ("crawl", "cryoflow crawl [OPTIONS] ROOTS...", ""),
        ("simulate", "cryoflow simulate [OPTIONS] DIRECTORY", "[default: 1536 2048]"),
        ("detector info", "cryoflow detector info [OPTIONS] [MODEL]", "[default: general]"),
        ("picker consensus", "cryoflow picker consensus --database PATH [OPTIONS] [ENTRIES...]", "[default: 2]"),
        ("up", "cryoflow up [OPTIONS]", "[default: 127.0.0.1]"),
    ],
)
def test_help_names_the_arguments_and_shows_defaults_as_they_are_typed(
    words: str, usage: str, default: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert launch([*words.split(), "--help"]) == ExitCode.OK
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == f"Usage: {usage}"
    assert default in printed
    assert "[default: False]" not in printed
    assert "[default: (" not in printed


@pytest.mark.parametrize(
    ("words", "names", "field", "value"),
    [
        ("pick /data", ("--pixel-size", "--apix"), "pixel_size_A", 1.5),
        ("unpicker evaluate model", ("--pixel-size", "--apix"), "pixel_size_A", 1.5),
        ("picker pick topaz --model m -o out", ("--pixel-size", "--apix"), "pixel_size_A", 1.5),
        ("improve topaz -o out --db DB", ("--pixel-size", "--apix"), "pixel_size_A", 1.5),
        ("simulate /data", ("--pixel-size", "--apix"), "pixel_size_A", 1.25),
        ("picker exclude E --db DB --masks m", ("--threshold", "--at-least"), "at_least", 0.25),
        ("evaluate E --db DB --reference R", ("--per-micrograph", "--micrographs"), "per_micrograph", True),
    ],
)
def test_one_thing_has_one_name_and_earlier_names_keep_working(
    words: str, names: tuple[str, str], field: str, value: object
) -> None:
    for name in names:
        given = [name] if value is True else [name, str(value)]
        command, bound, _ = main.app.parse_args([*words.split(), *given], exit_on_error=False, print_error=False)
        assert bound.arguments[field] == value
    (shown,) = (f.names for f in fields_of(command.declaration) if f.name == field)
    assert shown == names


@pytest.mark.parametrize("name", ["train-exported", "pick-exported"])
def test_commands_that_only_other_commands_run_are_not_listed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch(["detector", "--help"]) == ExitCode.OK
    assert name not in capsys.readouterr().out
    assert f"cryoflow detector {name}" not in reference()
    assert launch(["detector", name, "--help"]) == ExitCode.OK


@pytest.mark.parametrize("arguments", [["no-such-command"], ["doctor", "--no-such-option"], ["demo", "--output"]])
def test_wrong_use_is_code_2_and_is_told_on_stderr(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        launch(arguments)
    assert ended.value.code == ExitCode.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Error" in captured.err


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., object]], None]:
    """Puts a function in place of all commands, as `cryoflow act`."""

    def install(function: Callable[..., object]) -> None:
        app = App(
            name="cryoflow",
            result_action="return_value",
            config=(main.fill_from_settings,),
            suppress_keyboard_interrupt=False,
        )
        app.command(function, name="act")
        monkeypatch.setattr(main, "app", app)

    return install


def _raise(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (BadInput("a.star", "is empty.", "Copy it again."), 1, "cryoflow: a.star: is empty. Copy it again."),
        (output.UsageError("--box and --diameter do not go together"), 2, "cryoflow: --box and --diameter"),
        (FileNotFoundError(2, "No such file or directory", "gone.mrc"), 1, "cryoflow: gone.mrc: No such file"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError("division by zero"), 1, "defect of cryoflow (ZeroDivisionError: division by zero)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_an_error_is_one_line_on_stderr_and_its_code(
    error: BaseException,
    code: int,
    told: str,
    command: Callable[[Callable[..., object]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    command(_raise(error))
    assert launch(["act"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert told in captured.err
    assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize("by", ["flag", "variable"])
def test_debug_adds_the_traceback(
    by: str,
    command: Callable[[Callable[..., object]], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command(_raise(BadInput("a.star", "is empty.")))
    if by == "variable":
        monkeypatch.setenv("CRYOFLOW_DEBUG", "1")
    assert launch(["act", "--debug"] if by == "flag" else ["act"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_the_code_a_command_returns_is_the_code_of_the_process(
    command: Callable[[Callable[..., object]], None],
) -> None:
    command(lambda: ExitCode.PARTLY_FAILED)
    assert launch(["act"]) == 3
    command(lambda: None)
    assert launch(["act"]) == 0


def test_flags_after_a_double_dash_are_values(command: Callable[[Callable[..., object]], None]) -> None:
    seen: list[str] = []
    command(lambda *names: seen.extend(names))
    launch(["act", "-v", "--", "-q", "--debug"])
    assert seen == ["-q", "--debug"]


def test_an_option_takes_its_value_from_the_setting_of_its_name(
    command: Callable[[Callable[..., object]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Path, int, tuple[str, ...]]] = []

    def act(*, database: Path, workers: int = 1, remap: tuple[str, ...] = ()) -> None:
        seen.append((database, workers, remap))

    command(act)
    monkeypatch.setenv("CRYOFLOW_DATABASE", "/data/DB")
    monkeypatch.setenv("CRYOFLOW_REMAP", "/old=/new,/a=/b")
    launch(["act", "--workers", "3"])
    launch(["act", "--database", "here"])
    assert seen == [
        (Path("/data/DB"), 3, ("/old=/new", "/a=/b")),
        (Path("here"), 1, ("/old=/new", "/a=/b")),
    ]


@pytest.mark.parametrize(("words", "workers"), [([], 3), (["--num-cores", "2"], 2), (["--workers", "2"], 2)], ids=str)
def test_a_setting_reaches_an_option_that_has_its_name_as_an_alias(
    words: list[str],
    workers: int,
    command: Callable[[Callable[..., object]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def act(*, cores: Annotated[int, Parameter(name=("--num-cores", "--workers"))] = 1) -> int:
        return 10 + cores

    command(act)
    monkeypatch.setenv("CRYOFLOW_WORKERS", "3")
    assert launch(["act", *words]) == 10 + workers


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        ([], {"bad", "worse"}),
        (["-v"], {"fine", "bad", "worse"}),
        (["-q"], {"worse"}),
        (["--debug"], {"all", "fine", "bad", "worse"}),
    ],
)
def test_flags_choose_what_is_told_on_stderr(
    flags: list[str],
    shown: set[str],
    command: Callable[[Callable[..., object]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def act() -> None:
        import logging

        log = logging.getLogger("cryoflow.somewhere")
        log.debug("all")
        log.info("fine")
        log.warning("bad")
        log.error("worse")

    command(act)
    launch(["act", *flags])
    captured = capsys.readouterr()
    assert captured.out == ""
    told = {line.split(": ")[1] for line in captured.err.splitlines()}
    assert ("settings file" in told) == (flags in (["-v"], ["--debug"]))  # which one is used
    assert told - {"settings file"} == shown


@dataclass(frozen=True)
class Row:
    name: str
    kind: Kind
    n_picks: int | None
    pixel_size_A: float
    path: Path | None = None


ROWS = (Row("P1/Homo_J5", Kind.HOMO, 12, 0.885, Path("/a b")), Row("x\ty\n[red]z", Kind.HELIX, None, float("nan")))


def test_without_a_terminal_a_table_is_one_line_a_row_with_tabs(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit_table(ROWS, columns=("name", "kind", "n_picks", "pixel_size_A"))
    assert capsys.readouterr().out.splitlines() == [
        "name\tkind\tn_picks\tpixel_size_A",
        "P1/Homo_J5\tHomo\t12\t0.885",
        "x y [red]z\tHelix\t-\t-",
    ]


def test_a_terminal_gets_a_drawn_table_with_every_value(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    output.emit_table(ROWS, title="entries")
    printed = capsys.readouterr().out
    for value in ("entries", "P1/Homo_J5", "0.885", "[red]z"):
        assert value in printed


def test_json_keeps_types_and_unknown_values_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit_table(ROWS, columns=("name",), as_json=True)
    first, second = json.loads(capsys.readouterr().out)
    assert first == {"name": "P1/Homo_J5", "kind": "Homo", "n_picks": 12, "pixel_size_A": 0.885, "path": "/a b"}
    assert second["n_picks"] is None
    assert second["pixel_size_A"] is None


def test_json_knows_numpy_and_pandas_values() -> None:
    value = {"a": np.float32(1.5), "b": np.array([1, 2]), "c": pd.NA, "d": np.nan, "e": {2, 1}, "f": np.bool_(True)}
    assert plain(value) == {"a": 1.5, "b": [1, 2], "c": None, "d": None, "e": [1, 2], "f": True}


def test_an_empty_table_still_has_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit_table([], columns=("name", "n_picks"))
    assert capsys.readouterr().out == "name\tn_picks\n"
    output.emit_table([], as_json=True)
    assert json.loads(capsys.readouterr().out) == []


def test_a_record_is_name_and_value_lines(capsys: pytest.CaptureFixture[str]) -> None:
    output.emit_record(ROWS[0])
    assert "pixel_size_A: 0.885" in capsys.readouterr().out.splitlines()


def test_progress_goes_to_stderr_and_not_at_all_when_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    for quiet in (False, True):
        output.set_up(quiet=quiet)
        with output.progress("jobs", total=3) as advance:
            advance(2, note="J1")
    output.set_up()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "jobs: 2 of 3\n"


def test_a_reader_that_stops_reading_is_no_error() -> None:
    command = f"{sys.executable} -m cryoflow settings --json --quiet | head -c 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout == "["
    assert done.stderr == ""


def test_the_reference_holds_every_command_and_no_option_that_nobody_declared() -> None:
    text = reference()
    for name, *_ in COMMANDS:
        assert f"\n## cryoflow {name}\n" in text
    assert "\n### cryoflow picker train-and-pick\n" in text
    assert "| `--database, --db` | required | Folder of the text database." in text
    assert "`--negatives, --no-negatives` | yes |" in text
    assert "--empty-" not in text
    meanings = [line.split(" | ")[2] for line in text.splitlines() if line.startswith("| `")]
    assert all(len(meaning.strip(" |.")) > 5 for meaning in meanings)


def test_completion_is_installed_for_the_users_shell(tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "SHELL": "/bin/bash"}
    command = [sys.executable, "-m", "cryoflow", "--install-completion"]
    subprocess.run(command, env=environment, capture_output=True, check=True)
    scripts = [f for f in tmp_path.rglob("*") if f.is_file() and "train-and-pick" in f.read_text()]
    assert scripts


def test_the_pipeline_refuses_what_makes_no_sense_before_it_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert launch(["run", "--output", "run"]) == ExitCode.USAGE
    assert "ROOTS is required. Folders below which" in capsys.readouterr().err
    assert launch(["run", "/data", "--output", "run", "--picker", "gautomatch"]) == ExitCode.USAGE
    assert "gautomatch" in capsys.readouterr().err
    for command in (["run", "/data"], ["demo"]):
        assert launch([*command, "--output", "run", "--epochs", "0"]) == ExitCode.USAGE
        assert "--epochs should be greater than or equal to 1; it is 0." in capsys.readouterr().err


def test_a_prefect_server_that_does_not_answer_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert launch(["demo", "--output", str(tmp_path / "demo")]) == ExitCode.FAILED
    assert "no answer from Prefect's server at http://127.0.0.1:9/api" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(
    "arguments", [["deploy"], ["trace", "0f8fad5b-d9cb-469f-a165-70867728950e"], ["run", "/data", "--output", "out"]]
)
def test_a_site_whose_server_does_not_answer_is_one_line_that_says_how_to_start_it(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cryoflow.toml").write_text('profile = "slurm"\n[site]\nserver = "http://127.0.0.1:9"\n')
    monkeypatch.setenv("CRYOFLOW_CONFIG", str(tmp_path / "cryoflow.toml"))
    monkeypatch.chdir(tmp_path)
    for name in ("PREFECT_API_URL", "CRYOFLOW_PROFILE"):  # the command sets them: they are put back after the test
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    assert launch(arguments) == ExitCode.FAILED
    said = capsys.readouterr().err
    assert "no answer from Prefect's server at http://127.0.0.1:9/api" in said
    assert "cryoflow up" in said
