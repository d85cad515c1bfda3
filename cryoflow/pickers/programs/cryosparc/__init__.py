"""CryoSPARC: picks as a STAR for Import Particles, and as a dataset with uids.

The dataset has `location/*` and `pick_stats/*` as picking jobs write them, and can be opened with cryosparc-tools and
given to an External job. CryoSPARC joins particles to micrographs by uid, so the exposures' uids must be known: from
the entry where it came from CryoSPARC, else from the project's `exposures.cs`. y is not flipped: `center_y_frac`
counts from the first row of the file that `micrograph_path` names. Micrographs that another program's motion
correction wrote may be upside-down; then `flip_y` is yes.

Sources: datasets of CryoSPARC 3 to 4.5, cryosparc-tools (docs), the guide's page on Import Particle Stack.
"""

# ruff: noqa: ARG002 - pickers share signatures, and not every picker needs every argument
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, ClassVar

from cryoflow.errors import MissingMetadata
from cryoflow.pickers.base import Picker

if TYPE_CHECKING:
    from cryoflow.pickers.training_sets.derived_settings import DerivedSettings
    from cryoflow.pickers.training_sets.training_set import TrainingSet

STAR, DATASET = "import_particles.star", "picked_particles.cs"


class CryoSparc(Picker):
    """CryoSPARC's pickers as a source of picks, and its extraction as their consumer."""

    name = "cryosparc"
    title = "CryoSPARC"
    help = "CryoSPARC: a STAR for Import Particles, and a .cs with uids."
    formats = ("CryoSPARC dataset",)
    suffixes = (".cs",)
    score_kind = "pick_stats/ncc_score"
    links_micrographs: ClassVar[bool] = False

    def derive(self, training: TrainingSet, settings: DerivedSettings) -> None:
        """Derive the direction of y, and the columns `target` and `target_uid`: each micrograph's exposure."""
        from cryoflow.pickers.programs.cryosparc.dataset import exposures, own_exposures

        given = settings.derive_path(
            "exposures", "the entry's own uids; or exposures.cs of the project the picks go to"
        )
        settings.derive("flip_y", False, "the same MRC files; yes only for micrographs of another motion correction")
        table = training.micrographs
        if table[["ny", "nx"]].isna().any(axis=None):
            raise MissingMetadata("cryosparc", "needs the shape of each micrograph.", "Link its micrographs on ingest.")
        names, uids, keep = exposures(table, Path(given), settings) if given else own_exposures(table)
        table["target"] = [name if kept else None for name, kept in zip(names, keep, strict=True)]
        table["target_uid"] = 0 if uids is None else uids  # 0 is no uid of CryoSPARC's
        base = [PurePosixPath(str(name)).name for name in names[keep].tolist()]
        if same := len(base) - len(set(base)):
            settings.note(
                "file names that occur twice",
                same,
                "Import Particles cannot distinguish these micrographs; use the dataset",
            )
        if uids is None:
            settings.note("dataset", "not written", "the exposures' uids are unknown; see exposures")

    def write_tables(self, training: TrainingSet, folder: Path, home: Path, settings: Mapping[str, str]) -> None:
        """Write `import_particles.star`, and `picked_particles.cs` if the exposures' uids are known."""
        from cryoflow.pickers.programs.cryosparc.dataset import write_files

        write_files(training, folder, settings)

    def next_commands(self, home: Path) -> tuple[str, ...]:
        """Return where to put the files in CryoSPARC."""
        star, dataset = home / STAR, home / DATASET
        by_tools = (f"(or with cryosparc-tools: Dataset.load({str(dataset)!r}) into an External job)",)
        return (
            f"(CryoSPARC: Import Particle Stack of {star}, Source Exposures, Ignore raw data)",
            *(by_tools if dataset.exists() else ()),
        )

    def pick_files(self, folder: Path) -> list[Path]:
        """Return datasets with locations, without passthroughs."""
        from cryoflow.formats.cs import read_cs_header

        names = [p for p in sorted(folder.rglob("*.cs")) if "passthrough" not in p.name]
        return [p for p in names if "location/center_x_frac" in (read_cs_header(p).dtype.names or ())]


PICKER = CryoSparc()
