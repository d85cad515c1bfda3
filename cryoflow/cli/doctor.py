"""`cryoflow doctor`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from cryoflow.cli.output import Json, emit_table, progress, say
from cryoflow.errors import ExitCode

Image = Annotated[
    str | None,
    Parameter(
        help="Check this image in place of the machine: a .sif file for Apptainer, or a name that Docker Engine has, "
        "such as cryoflow:cpu. It is started as stages are: imports, versions, GPU, certificates, the site's folders."
    ),
]


def doctor(*, image: Image = None, json: Json = False) -> ExitCode:
    """Check versions, TensorFlow and GPU, reading and writing, disk, Prefect, SLURM and containers; or an image.

    Exit code 0 if nothing failed; a missing optional part (GPU, SLURM, Apptainer, Docker) is no failure.
    """
    from cryoflow.doctor import examine
    from cryoflow.settings.load import load_settings

    loaded = load_settings()
    if image:
        from cryoflow.cluster.images import examine_image

        checks = examine_image(image, loaded.settings)
    else:
        checks = examine(loaded)
    with progress("checks") as advance:
        findings = []
        for finding in checks:
            findings.append(finding)
            advance(note=finding.check)
    emit_table(findings, columns=("check", "status", "found", "hint"), as_json=json)
    failed = [finding.check for finding in findings if finding.status == "failed"]
    if failed:
        say(f"failed: {', '.join(failed)}")
    return ExitCode.FAILED if failed else ExitCode.OK
