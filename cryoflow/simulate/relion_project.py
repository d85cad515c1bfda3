"""A finished RELION project around a simulated dataset, as each generation of RELION would have left it on the disk.

Movies were imported and corrected, CTFs estimated; a few micrographs were picked by hand, all of them by a permissive
picker; boxes were cut and scaled down, classified in two and three dimensions, each time selected, and refined. Every
pick is in AutoPick and Extract; the right ones survive to the selections and to the refinement, which moves each by its
origin onto the true center. No maps and no box images are written.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryoflow.errors import BadInput
from cryoflow.formats.star import write_star
from cryoflow.simulate.relion_graph import Graph
from cryoflow.simulate.relion_tables import BINNING, Columns, Tables
from cryoflow.simulate.simulated_dataset import SimulatedDataset, SimulatedMicrograph
from cryoflow.storage.files import write_atomically
from cryoflow.storage.folders import replacing_folder

_N_MANUAL = 5
_GENERATIONS = {"1": (1, 4), "2": (2, 1), "3.0": (3, 0), "3.1": (3, 1), "4": (4, 0), "5": (5, 0)}


def write_relion_project(folder: str | Path, dataset: SimulatedDataset, *, version: str = "5.0") -> Path:
    """Write a project and return its folder. Micrographs are linked, not copied.

    Parameters
    ----------
    version
        `1`, `2`, `3.0`, `3.1`, `4` or `5`, with or without a minor number.

    Raises
    ------
    BadInput
        Where the folder exists and is not empty, or the version is not known.
    """
    folder = Path(folder)
    generation = generation_of(folder, version)
    with replacing_folder(folder) as hidden:
        tables = Tables(dataset, generation)
        if generation < (2, 0):
            write_relion_1(hidden, dataset, tables)
            return folder
        jobs = Jobs(Graph(hidden, generation), dataset, tables)
        jobs.prepare()
        jobs.pick()
        jobs.classify()
        jobs.refine()
        jobs.graph.write()
    return folder


def generation_of(folder: Path, version: str) -> tuple[int, int]:
    """Return the generation of a version, for a project in a new folder; see `write_relion_project`."""
    major = version if version in _GENERATIONS else version.split(".")[0]
    if major not in _GENERATIONS:
        raise BadInput(folder, f"RELION {version} is not known.", f"Known are {', '.join(_GENERATIONS)}.")
    if folder.exists() and any(folder.iterdir()):
        raise BadInput(folder, "exists and is not empty.", "Name a new folder for the simulated project.")
    return _GENERATIONS[major]


class Jobs:
    """Writes the jobs one after the other, each from those before it."""

    def __init__(self, graph: Graph, dataset: SimulatedDataset, tables: Tables) -> None:
        self.graph, self.dataset, self.tables = graph, dataset, tables
        self.names: list[str] = []

    def add(
        self, kind: str, inputs: tuple[str, ...], outputs: dict[str, str], options: dict[str, str], label: str = ""
    ) -> str:
        """Enter a job whose files are written, and return its name."""
        alias = {"AutoPick": "permissive", "Refine3D": "final", "Class2D": "first2d"}.get(kind, "")
        return self.graph.add(kind, inputs=inputs, outputs=outputs, options=options, label=label, alias=alias)

    def place(self, micrograph: SimulatedMicrograph, folder: Path) -> None:
        """Put a micrograph where motion correction leaves it."""
        (folder / micrograph.path.name).symlink_to(os.path.abspath(micrograph.path))  # noqa: PTH100 (links stay)

    def prepare(self) -> None:
        """Import movies, correct motion, estimate CTFs."""
        graph, tables = self.graph, self.tables
        movies = [f"Movies/{m.path.stem}.tif" for m in self.dataset.micrographs]
        name = graph.next_name("Import")
        write_star(
            graph.folder / name / "movies.star", {"movies": {"rlnMicrographMovieName": movies}}, comment=graph.comment
        )
        imported = self.add("Import", (), {"movies.star": "movies"}, {"fn_in_raw": "Movies/*.tif"})
        corrected = graph.next_name("MotionCorr")
        folder = graph.folder / corrected / "Movies"
        folder.mkdir(parents=True)
        for m in self.dataset.micrographs:
            self.place(m, folder)
        self.names = [f"{corrected}/Movies/{m.path.name}" for m in self.dataset.micrographs]
        path = graph.folder / corrected / "corrected_micrographs.star"
        tables.write_micrographs(path, self.names, graph.comment, with_ctf=False)
        self.add(
            "MotionCorr",
            (f"{imported}/movies.star",),
            {"corrected_micrographs.star": "micrographs"},
            {"bin_factor": str(BINNING), "input_star_mics": f"{imported}/movies.star"},
        )
        ctf = graph.next_name("CtfFind")
        tables.write_micrographs(graph.folder / ctf / "micrographs_ctf.star", self.names, graph.comment, with_ctf=True)
        node = f"{corrected}/corrected_micrographs.star"
        self.add("CtfFind", (node,), {"micrographs_ctf.star": "micrographs"}, {"input_star_mics": node})
        self.micrographs_node = f"{ctf}/micrographs_ctf.star"

    def pick(self) -> None:
        """Pick a few micrographs by hand and all by a program, and extract the latter picks."""
        self._coordinates("ManualPick", "manualpick", self.dataset.micrographs[:_N_MANUAL], manual=True)
        node = self._coordinates("AutoPick", "autopick", self.dataset.micrographs, manual=False)
        extract = self.graph.next_name("Extract")
        self.particles, self.is_right = self.tables.particles(self.names, extract)
        first = {k: v for k, v in self.particles.items() if k not in ("rlnClassNumber", "origin_x", "origin_y")}
        self.write_particles(f"{extract}/particles.star", first)
        options = {
            "star_mics": self.micrographs_node,
            "coords_suffix": node,
            "extract_size": str(self.tables.box_px),
            "do_rescale": "Yes",
            "rescale": str(self.tables.box_px // BINNING),
        }
        self.add("Extract", (self.micrographs_node, node), {"particles.star": "particles"}, options)
        self.particles_node = f"{extract}/particles.star"

    def _coordinates(self, kind: str, word: str, mics: tuple[SimulatedMicrograph, ...], *, manual: bool) -> str:
        graph = self.graph
        name = graph.next_name(kind)
        files = []
        for m in mics:
            file = f"{name}/Movies/{m.path.stem}_{word}.star"
            xy = m.true_xy_px if manual else m.picks_xy_px
            unknown = np.full(len(xy), -999.0)
            columns: dict[str, npt.ArrayLike] = {
                "rlnCoordinateX": xy[:, 0],
                "rlnCoordinateY": xy[:, 1],
                "rlnClassNumber": np.full(len(xy), -999 if manual else 0),
                "rlnAnglePsi": unknown if manual else m.pick_psi_deg,
                "rlnAutopickFigureOfMerit": unknown if manual else m.pick_scores,
            }
            write_star(graph.folder / file, {"": columns}, comment=graph.comment)
            files.append(file)
        option = {"fn_in" if manual else "fn_input_autopick": self.micrographs_node}
        if manual:
            option["diameter"] = f"{self.dataset.diameter_A:g}"
        if graph.generation >= (4, 0):
            output = f"{word}.star"
            columns = {"rlnMicrographName": self.names[: len(mics)], "rlnMicrographCoordinates": files}
            write_star(graph.folder / name / output, {"coordinate_files": columns}, comment=graph.comment)
        else:
            output = f"coords_suffix_{word}.star"
            write_atomically(graph.folder / name / output, f"{self.micrographs_node}\n")
        self.add(kind, (self.micrographs_node,), {output: "coordinates"}, option)
        return f"{name}/{output}"

    def classify(self) -> None:
        """Classify in 2D and in 3D, and select after each."""
        self._class_job("Class2D", int(self.particles["rlnClassNumber"].max(initial=1)))
        self.select_2d()
        keep = self.is_right
        self.particles = {name: column[keep] for name, column in self.particles.items()}
        n = len(self.particles["group"])
        self.particles["rlnClassNumber"] = (1 + (np.arange(n) % 3 == 0)).astype(np.int32)
        self.is_right = np.ones(n, bool)
        self._class_job("Class3D", 3)
        self.select(self.is_right, "Class3D")

    def select_2d(self) -> None:
        """Select the right 2D classes by hand."""
        self.select(self.is_right, "Class2D")

    def _class_job(self, kind: str, n_classes: int) -> None:
        name = self.graph.next_name(kind)
        run = self.run_name("it025")
        junk = dict(self.particles)
        junk["rlnClassNumber"] = np.ones(len(junk["group"]), np.int32)
        self.write_particles(f"{name}/run_it001_data.star", junk)
        self.write_particles(f"{name}/{run}_data.star", self.particles)
        for file in ("model", "optimiser"):
            write_star(
                self.graph.folder / name / f"{run}_{file}.star",
                {
                    f"{file}_general": {
                        "rlnNrClasses": n_classes,
                        "rlnReferenceDimensionality": 2 if kind == "Class2D" else 3,
                    }
                },
                comment=self.graph.comment,
            )
        self.add(
            kind,
            (self.particles_node,),
            {f"{run}_data.star": "particles", f"{run}_model.star": "model", f"{run}_optimiser.star": "optimiser"},
            {"fn_img": self.particles_node, "nr_classes": str(n_classes)},
        )
        self.model_node, self.data_node = f"{name}/{run}_model.star", f"{name}/{run}_data.star"

    def run_name(self, iteration: str = "") -> str:
        """Return what the names of a run's files start with."""
        return f"run_{iteration}" if iteration else "run"

    def select(self, keep: npt.NDArray[np.bool_], of: str, how: str = "interactive", node: str = "") -> None:
        """Select particles of a classification; `node` is the input, by default the classification's model."""
        name = self.graph.next_name("Select")
        chosen = {column: values[keep] for column, values in self.particles.items()}
        node = node or self.model_node
        outputs = self.write_selected(name, chosen)
        if of == "Class2D" and how == "interactive":
            outputs["class_averages.star"] = "averages"
            averages = {"rlnReferenceImage": ["000001@" + self.model_node.replace("_model.star", "_classes.mrcs")]}
            write_star(self.graph.folder / name / "class_averages.star", {"": averages}, comment=self.graph.comment)
        options = {"fn_model" if node == self.model_node else "fn_data": node}
        self.add("Select", (node,), outputs, options, f"relion.select.{how}" if self.graph.uses_labels else "")
        self.particles_node = f"{name}/{next(iter(outputs))}"

    def write_selected(self, name: str, chosen: Columns) -> dict[str, str]:
        """Write what a selection keeps, and return its files and their kinds of node."""
        self.write_particles(f"{name}/particles.star", chosen)
        return {"particles.star": "particles"}

    def refine(self) -> None:
        """Refine what was selected."""
        name, run = self.graph.next_name("Refine3D"), self.run_name()
        early = dict(self.particles)
        early["origin_x"], early["origin_y"] = (np.zeros(len(early["group"])) for _ in "xy")
        self.write_particles(f"{name}/run_it000_data.star", early)
        self.write_particles(f"{name}/{run}_it014_data.star", self.particles)
        self.add("Refine3D", (self.particles_node,), self.converge(f"{name}/{run}"), {"fn_img": self.particles_node})
        self.particles_node = f"{name}/{run}_data.star"

    def converge(self, start: str) -> dict[str, str]:
        """Write the last file of a refinement, and return it with its kind of node."""
        self.write_particles(f"{start}_data.star", self.particles)
        return {f"{Path(start).name}_data.star": "particles"}

    def write_particles(self, name: str, columns: Columns) -> None:
        """Write a table of particles, in the words of the generation."""
        self.tables.write_particles(self.graph.folder / name, columns, self.graph.comment)


def write_relion_1(folder: Path, dataset: SimulatedDataset, tables: Tables) -> None:
    """Write a project of RELION 1, which has no jobs: micrographs beside their picks, runs named by their user."""
    comment = "RELION; version 1.4"
    (folder / "Micrographs").mkdir()
    for m in dataset.micrographs:
        (folder / "Micrographs" / m.path.name).symlink_to(os.path.abspath(m.path))  # noqa: PTH100
        columns = {"rlnCoordinateX": m.picks_xy_px[:, 0], "rlnCoordinateY": m.picks_xy_px[:, 1]}
        columns["rlnAutopickFigureOfMerit"] = m.pick_scores
        write_star(folder / "Micrographs" / f"{m.path.stem}_autopick.star", {"": columns}, comment=comment)
    names = [f"Micrographs/{m.path.name}" for m in dataset.micrographs]
    tables.write_micrographs(folder / "micrographs_all_ctf.star", names, comment, with_ctf=True)
    particles, is_right = tables.particles(names, "Particles")
    tables.write_particles(folder / "particles.star", particles, comment)
    tables.write_particles(folder / "Class2D" / "run1_it025_data.star", particles, comment)
    chosen = {name: column[is_right] for name, column in particles.items()}
    tables.write_particles(folder / "Refine3D" / "run1_it012_data.star", chosen, comment)
    tables.write_particles(folder / "Refine3D" / "run1_data.star", chosen, comment)
