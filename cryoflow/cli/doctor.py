"""`cryoflow doctor` and `cryoflow settings`."""

from __future__ import annotations

from cryoflow.cli.output import Json, emit_table, progress, say
from cryoflow.errors import ExitCode


def doctor(*, json: Json = False) -> ExitCode:
    """Check versions, TensorFlow and GPU, reading and writing, disk, Prefect, SLURM and containers.

    Exit code 0 where nothing failed; a missing optional part (GPU, SLURM, Apptainer, Docker) is no failure.
    """
    from cryoflow.doctor import examine
    from cryoflow.settings import load_settings

    with progress("checks") as advance:
        findings = []
        for finding in examine(load_settings()):
            findings.append(finding)
            advance(note=finding.check)
    emit_table(findings, columns=("check", "status", "found", "hint"), as_json=json)
    failed = [finding.check for finding in findings if finding.status == "failed"]
    if failed:
        say(f"failed: {', '.join(failed)}")
    return ExitCode.FAILED if failed else ExitCode.OK


def settings(*, json: Json = False) -> None:
    """Show every setting, its value and where that comes from.

    The command line comes before CRYOFLOW_* variables, cryoflow.toml, the profile and the defaults.
    """
    from cryoflow.settings import Settings, load_settings

    loaded = load_settings()
    rows = [
        {
            "setting": name,
            "value": getattr(loaded.settings, name),
            "from": loaded.origins[name],
            "variable": f"CRYOFLOW_{name.upper()}",
            "meaning": field.description,
        }
        for name, field in Settings.model_fields.items()
    ]
    emit_table(rows, as_json=json)
