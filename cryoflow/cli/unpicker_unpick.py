"""`cryoflow unpicker unpick`: the wrong picks of STAR files or of a database's entries are removed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from cryoflow.cli import output as out
from cryoflow.cli.unpicker_input import (
    CHANCE,
    STAR,
    Apix,
    CtfStar,
    DatabaseOption,
    Diameter,
    Micrographs,
    NumCores,
    ending,
    judging,
    load_entries,
    warn_coverage,
)
from cryoflow.cli.unpicker_older import OlderOption, check_as_trained
from cryoflow.errors import BadInput
from cryoflow.storage.safe_names import safe_name


def unpick(
    model: Annotated[Path, Parameter(name=["--model", "--train-output"])],
    *entries: str,
    output: Annotated[Path | None, Parameter(name=["--output", "-o", "--output-star-dir"])] = None,
    folder: Annotated[Path | None, Parameter(name=["--folder", "--eval-star-dir"], group=STAR)] = None,
    suffix: Annotated[str, Parameter(name=["--suffix", "--eval-root"], group=STAR)] = "_autopick",
    unpick_suffix: Annotated[
        str, Parameter(name=["--unpick-suffix", "--output-root"], group=STAR)
    ] = "_autopick_unpick",
    scored_suffix: Annotated[str | None, Parameter(group=STAR)] = None,
    micrographs: Micrographs = None,
    apix: Apix = None,
    ctf: CtfStar = None,
    database: DatabaseOption = None,
    diameter: Diameter = None,
    threshold: Annotated[float | None, CHANCE] = None,
    orientations: Literal[1, 2, 4, 8] = 1,
    num_cores: NumCores = None,
    boxsize: OlderOption = None,
    sigma_contrast: OlderOption = None,
    lowpass: OlderOption = None,
    highpass: OlderOption = None,
    gaussian_sigma: OlderOption = None,
    resized_box: OlderOption = None,
    json: out.Json = False,
) -> int:
    """Remove the wrong picks from STAR files of a folder, or from entries of a database.

    With --folder: X_autopick_unpick.star is written to --output, its rows as they were. With --database: an entry
    Unpicked_<job> is added for each entry; --output gets STAR files that RELION displays and a .cs for CryoSPARC.

    Parameters
    ----------
    model
        Folder of the model, or of one of its checkpoints.
    entries
        Entries of the database.
    output
        Folder to write to.
    folder
        Folder of STAR files and their micrographs.
    suffix
        What the files of picks end in.
    unpick_suffix
        What the files to write end in.
    scored_suffix
        Also write all picks with their probability as rlnAutopickFigureOfMerit, to files that end in this.
    micrographs
        Folder of the images, where it is another.
    apix
        Pixel size in angstrom; by default from each image's header.
    ctf
        STAR file with the CTF of all micrographs (phase flipping, and a warning about its range).
    database
        The database's folder.
    diameter
        Particle diameter in angstrom; the model's by default.
    threshold
        Keep picks of at least this probability; the model's by default.
    orientations
        Look at each box in so many orientations.
    num_cores
        Micrographs prepared at a time.
    boxsize, sigma_contrast, lowpass, highpass, gaussian_sigma, resized_box
        The older program asked for them here, too: they must be as they were at training.
    """
    from cryoflow.unpicker.bundle import ModelBundle

    if (folder is None) == (database is None):
        raise out.UsageError("give --folder, or --database and its entries.")
    bundle = ModelBundle.load(model)
    older = {
        "boxsize": boxsize,
        "sigma-contrast": sigma_contrast,
        "lowpass": lowpass,
        "highpass": highpass,
        "gaussian-sigma": gaussian_sigma,
        "resized-box": resized_box,
    }
    check_as_trained(bundle, older)
    if folder is not None:
        from cryoflow.unpicker.unpick import unpick_star_folder

        if output is None:
            raise out.UsageError("say where to write (--output); it may be the same folder.")
        with judging("unpick", None, json=json) as on_judged:
            report = unpick_star_folder(
                bundle,
                folder,
                output,
                suffix=suffix,
                unpick_suffix=unpick_suffix,
                scored_suffix=scored_suffix,
                diameter_A=diameter,
                pixel_size_A=apix,
                micrographs_dir=micrographs,
                ctf_star=ctf,
                threshold=threshold,
                orientations=orientations,
                workers=num_cores,
                on_judged=on_judged,
            )
        warn_coverage(bundle, [j.micrograph for j in report.judged])
        if json:
            out.emit_json(
                [{"name": j.micrograph.name, "n": len(j.kept), "n_kept": int(j.kept.sum())} for j in report.judged]
            )
        out.say(f"kept {report.n_kept} of {report.n_picks} picks on {len(report.judged)} micrographs")
        return ending(report.failed, len(report.judged))
    return _unpick_entries(bundle, entries, database, output, threshold, orientations, num_cores, json=json)


def _unpick_entries(
    bundle: object,
    entries: Sequence[str],
    database: Path | None,
    output: Path | None,
    threshold: float | None,
    orientations: int,
    num_cores: int | None,
    *,
    json: bool,
) -> int:
    from cryoflow.database import Database
    from cryoflow.pickers.training_sets.export import export
    from cryoflow.unpicker.bundle import ModelBundle
    from cryoflow.unpicker.unpick import unpick as run

    assert isinstance(bundle, ModelBundle)
    rows = []
    failed: list[BadInput] = []
    for name, picks in zip(entries, load_entries(entries, database), strict=True):
        assert database is not None
        with judging(name, None, json=json) as on_judged:
            kept, report = run(
                bundle,
                picks,
                threshold=threshold,
                orientations=orientations,
                workers=num_cores,
                on_judged=on_judged,
            )
        warn_coverage(bundle, [j.micrograph for j in report.judged])
        for note in report.notes:
            out.say(f"note: {note}")
        failed += report.failed
        entry = Database(database).add(kept)
        for program in ("relion", "cryosparc") if output else ():
            assert output is not None
            folder = output / safe_name(name.replace("/", "_")) / program
            written = export(program, [kept], folder, diameter_A=kept.diameter_A, overwrite=True)
            for command in written.next_commands:
                out.say(f"next: {command}")
        rows.append(
            {
                "entry": entry.name,
                "from": name,
                "picks": len(picks),
                "kept": len(kept),
                "micrographs": len(report.judged),
            }
        )
    out.emit_table(rows, as_json=json)
    return ending(failed, len(rows))
