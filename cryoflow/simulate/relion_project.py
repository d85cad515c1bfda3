"""A finished RELION project around a simulated dataset, as each generation of RELION would have left it on the disk.

Movies were imported and corrected, CTFs estimated; a few micrographs were picked by hand, all of them by a permissive
picker; boxes were cut and scaled down, classified in two and three dimensions, each time selected, and refined. Every
pick is in AutoPick and Extract; the right ones survive to the selections and to the refinement, which moves each by its
origin onto the true centre. No maps and no box images are written.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from cryoflow.errors import BadInput
from cryoflow.formats.star import write_star
from cryoflow.simulate.dataset import SimulatedDataset, SimulatedMicrograph
from cryoflow.simulate.relion_graph import Graph
from cryoflow.simulate.relion_tables import BINNING, Columns, Tables
from cryoflow.storage.files import replacing_folder, write_atomically

_N_MANUAL = 5
_GENERATIONS = {"1": (1, 4), "2": (2, 1), "3.0": (3, 0), "3.1": (3, 1), "4": (4, 0), "5": (5, 0)}


def write_relion_project(
    folder: str | Path,
    dataset: SimulatedDataset,
    *,
    version: str = "5.0",
    micrographs: Literal["link", "copy", "missing"] = "link",
    first_job: int = 1,
    dot_names: bool = False,
    aliases: bool = True,
    pipeline: bool = True,
    nested_copies: bool = True,
    optics_last: bool = False,
    optics_groups: int = 1,
    keeps_micrograph_pixel_size: bool = False,
    converged: bool = True,
    continued: bool = False,
    went_on: bool = False,
    select2d: Literal["interactive", "class2dauto", "onvalue", "removeduplicates", "split"] = "interactive",
    is_tomo: bool = False,
    status: Mapping[str, str] | None = None,
) -> Path:
    """Write a project and return its folder.

    Parameters
    ----------
    version
        `1`, `2`, `3.0`, `3.1`, `4` or `5`, with or without a minor number.
    micrographs
        Link to the dataset's files in the MotionCorr job, copy them there, or leave them out.
    first_job
        Number of the first job: jobs go on past 999.
    dot_names
        `./` before names in the pipeline.
    aliases
        Give jobs aliases.
    pipeline
        Write `default_pipeline.star`; else it was lost.
    nested_copies
        Put a copy of it into each job's folder, as RELION does.
    optics_last
        Write the optics block behind the particles.
    optics_groups
        Spread micrographs over so many groups.
    keeps_micrograph_pixel_size
        Leave `rlnMicrographPixelSize` in the optics of particles; RELION takes it out.
    converged
        Whether the refinement came to its end.
    continued
        Whether classification and refinement were continued after a stop.
    went_on
        Whether the refined particles went through CtfRefine and Polish, and were extracted again, recentred, and
        refined again.
    select2d
        How 2D classes were selected. `split` leaves two files, `removeduplicates` follows on an interactive one.
    is_tomo
        Mark the jobs as ones of tomography.
    status
        Folder of a type (`AutoPick`) -> `Running`, `Scheduled`, `Failed`, `Aborted`.

    Raises
    ------
    BadInput
        Where the folder exists and is not empty, or the version is not known.
    """
    folder = Path(folder)
    major = version if version in _GENERATIONS else version.split(".")[0]
    if major not in _GENERATIONS:
        raise BadInput(folder, f"RELION {version} is not known.", f"Known are {', '.join(_GENERATIONS)}.")
    if folder.exists() and any(folder.iterdir()):
        raise BadInput(folder, "exists and is not empty.", "Name a new folder for the simulated project.")
    with replacing_folder(folder) as hidden:
        table = Tables(dataset, _GENERATIONS[major], optics_last, optics_groups, keeps_micrograph_pixel_size)
        if major == "1":
            _write_relion_1(hidden, dataset, table, micrographs)
            return folder
        graph = Graph(hidden, _GENERATIONS[major], first_job, dot_names, aliases)
        jobs = _Jobs(graph, dataset, table, dict(status or {}), is_tomo)
        jobs.prepare(micrographs)
        jobs.pick()
        jobs.classify(select2d, continued=continued)
        jobs.refine(converged=converged, continued=continued)
        if went_on:
            jobs.go_on()
        if pipeline:
            graph.write(nested_copies=nested_copies)
    return folder


class _Jobs:
    """Writes the jobs one after the other, each from those before it."""

    def __init__(
        self, graph: Graph, dataset: SimulatedDataset, tables: Tables, status: dict[str, str], is_tomo: bool
    ) -> None:
        self.graph, self.dataset, self.tables, self.status, self.is_tomo = graph, dataset, tables, status, is_tomo
        self.names: list[str] = []

    def _add(
        self, kind: str, inputs: tuple[str, ...], outputs: dict[str, str], options: dict[str, str], label: str = ""
    ) -> str:
        alias = {"AutoPick": "permissive", "Refine3D": "final", "Class2D": "first2d"}.get(kind, "")
        return self.graph.add(
            kind,
            inputs=inputs,
            outputs=outputs,
            options=options,
            label=label,
            alias=alias,
            status=self.status.get(kind, "Succeeded"),
            is_tomo=self.is_tomo,
        )

    def prepare(self, place: str) -> None:
        """Import, motion correction, CTF."""
        graph, tables = self.graph, self.tables
        movies = [f"Movies/{m.path.stem}.tif" for m in self.dataset.micrographs]
        name = graph.next_name("Import")
        write_star(
            graph.folder / name / "movies.star", {"movies": {"rlnMicrographMovieName": movies}}, comment=graph.comment
        )
        imported = self._add("Import", (), {"movies.star": "movies"}, {"fn_in_raw": "Movies/*.tif"})
        corrected = graph.next_name("MotionCorr")
        folder = graph.folder / corrected / "Movies"
        folder.mkdir(parents=True)
        for m in self.dataset.micrographs:
            if place == "link":
                (folder / m.path.name).symlink_to(os.path.abspath(m.path))  # noqa: PTH100 (links stay as they are named)
            elif place == "copy":
                shutil.copyfile(m.path, folder / m.path.name)
        self.names = [f"{corrected}/Movies/{m.path.name}" for m in self.dataset.micrographs]
        path = graph.folder / corrected / "corrected_micrographs.star"
        tables.write_micrographs(path, self.names, graph.comment, with_ctf=False)
        self._add(
            "MotionCorr",
            (f"{imported}/movies.star",),
            {"corrected_micrographs.star": "micrographs"},
            {"bin_factor": str(BINNING), "input_star_mics": f"{imported}/movies.star"},
        )
        ctf = graph.next_name("CtfFind")
        tables.write_micrographs(graph.folder / ctf / "micrographs_ctf.star", self.names, graph.comment, with_ctf=True)
        node = f"{corrected}/corrected_micrographs.star"
        self._add("CtfFind", (node,), {"micrographs_ctf.star": "micrographs"}, {"input_star_mics": node})
        self.micrographs_node = f"{ctf}/micrographs_ctf.star"

    def pick(self) -> None:
        """Manual picks of a few micrographs, automatic ones of all, extraction of the latter."""
        self._coordinates("ManualPick", "manualpick", self.dataset.micrographs[:_N_MANUAL], manual=True)
        node = self._coordinates("AutoPick", "autopick", self.dataset.micrographs, manual=False)
        extract = self.graph.next_name("Extract")
        self.particles, self.is_right = self.tables.particles(self.names, extract)
        first = {k: v for k, v in self.particles.items() if k not in ("rlnClassNumber", "origin_x", "origin_y")}
        self._write_particles(f"{extract}/particles.star", first)
        options = {
            "star_mics": self.micrographs_node,
            "coords_suffix": node,
            "extract_size": str(self.tables.box_px),
            "do_rescale": "Yes",
            "rescale": str(self.tables.box_px // BINNING),
        }
        self._add("Extract", (self.micrographs_node, node), {"particles.star": "particles"}, options)
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
        self._add(kind, (self.micrographs_node,), {output: "coordinates"}, option)
        return f"{name}/{output}"

    def classify(self, select2d: str, *, continued: bool) -> None:
        """2D classes and their selection, then 3D classes and theirs."""
        self._class_job("Class2D", int(self.particles["rlnClassNumber"].max(initial=1)), continued)
        if select2d == "removeduplicates":
            self._select(self.is_right, "Class2D", "interactive")
            model = self.particles_node
            self._select(self.is_right, "", "removeduplicates", model)
        else:
            self._select(self.is_right, "Class2D", select2d)
        keep = self.is_right
        self.particles = {name: column[keep] for name, column in self.particles.items()}
        n = len(self.particles["group"])
        self.particles["rlnClassNumber"] = (1 + (np.arange(n) % 3 == 0)).astype(np.int32)
        self.is_right = np.ones(n, bool)
        self._class_job("Class3D", 3, continued)
        self._select(self.is_right, "Class3D", "interactive")

    def _class_job(self, kind: str, n_classes: int, continued: bool) -> None:
        name = self.graph.next_name(kind)
        run = "run_ct10_it025" if continued and self.graph.generation < (4, 0) else "run_it025"
        junk = dict(self.particles)
        junk["rlnClassNumber"] = np.ones(len(junk["group"]), np.int32)
        self._write_particles(f"{name}/run_it001_data.star", junk)
        self._write_particles(f"{name}/{run}_data.star", self.particles)
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
        self._add(
            kind,
            (self.particles_node,),
            {f"{run}_data.star": "particles", f"{run}_model.star": "model", f"{run}_optimiser.star": "optimiser"},
            {"fn_img": self.particles_node, "nr_classes": str(n_classes)},
        )
        self.model_node, self.data_node = f"{name}/{run}_model.star", f"{name}/{run}_data.star"

    def _select(self, keep: npt.NDArray[np.bool_], of: str, how: str, data: str = "") -> None:
        name = self.graph.next_name("Select")
        chosen = {column: values[keep] for column, values in self.particles.items()}
        outputs = {"particles.star": "particles"}
        node = data or (self.model_node if how in ("interactive", "class2dauto") else self.data_node)
        if how == "split":
            half = np.arange(len(chosen["group"])) % 2
            outputs = {f"particles_split{k + 1}.star": "particles" for k in (0, 1)}
            for k, file in enumerate(outputs):
                self._write_particles(f"{name}/{file}", {c: v[half == k] for c, v in chosen.items()})
        else:
            self._write_particles(f"{name}/particles.star", chosen)
        if of == "Class2D" and how == "interactive":
            outputs["class_averages.star"] = "averages"
            averages = {"rlnReferenceImage": ["000001@" + self.model_node.replace("_model.star", "_classes.mrcs")]}
            write_star(self.graph.folder / name / "class_averages.star", {"": averages}, comment=self.graph.comment)
        options = {"fn_model" if node == self.model_node else "fn_data": node}
        self._add("Select", (node,), outputs, options, f"relion.select.{how}" if self.graph.uses_labels else "")
        self.particles_node = f"{name}/{next(iter(outputs))}"

    def refine(self, *, converged: bool, continued: bool) -> None:
        """The refinement of what was selected."""
        name = self.graph.next_name("Refine3D")
        run = "run_ct12" if continued and self.graph.generation < (4, 0) else "run"
        early = dict(self.particles)
        early["origin_x"], early["origin_y"] = (np.zeros(len(early["group"])) for _ in "xy")
        self._write_particles(f"{name}/run_it000_data.star", early)
        self._write_particles(f"{name}/{run}_it014_data.star", self.particles)
        outputs = {}
        if converged:
            self._write_particles(f"{name}/{run}_data.star", self.particles)
            outputs[f"{run}_data.star"] = "particles"
        self._add("Refine3D", (self.particles_node,), outputs, {"fn_img": self.particles_node})
        self.particles_node = f"{name}/{run}_data.star"

    def go_on(self) -> None:
        """CTF refinement and polishing, then a recentred extraction of the polished particles and its refinement."""
        for kind, file in (("CtfRefine", "particles_ctf_refine.star"), ("Polish", "shiny.star")):
            self._hand_on(kind, file, {"fn_data": self.particles_node})
        for axis in "xy":
            origin = np.asarray(self.particles[f"origin_{axis}"], np.float64)
            coordinate = np.asarray(self.particles[f"rlnCoordinate{axis.upper()}"], np.float64)
            self.particles[f"rlnCoordinate{axis.upper()}"] = coordinate - np.round(origin)
            self.particles[f"origin_{axis}"] = origin - np.round(origin)  # less than a pixel is left
        options = {"do_reextract": "Yes", "fndata_reextract": self.particles_node, "do_recenter": "Yes"}
        options |= {"star_mics": self.micrographs_node, "extract_size": str(self.tables.box_px)}
        self._hand_on("Extract", "particles.star", options, "relion.extract.reextract")
        self._hand_on("Refine3D", "run_data.star", {"fn_img": self.particles_node})

    def _hand_on(self, kind: str, file: str, options: dict[str, str], label: str = "") -> None:
        name = self.graph.next_name(kind)
        self._write_particles(f"{name}/{file}", self.particles)
        inputs = tuple(dict.fromkeys(v for v in (options.get("star_mics", ""), self.particles_node) if v))
        label = label if self.graph.uses_labels else ""
        self.graph.add(kind, inputs=inputs, outputs={file: "particles"}, options=options, label=label)
        self.particles_node = f"{name}/{file}"

    def _write_particles(self, name: str, columns: Columns) -> None:
        self.tables.write_particles(self.graph.folder / name, columns, self.graph.comment)


def _write_relion_1(folder: Path, dataset: SimulatedDataset, tables: Tables, place: str) -> None:
    """No pipeline, no jobs: micrographs and their picks side by side, runs named by their user."""
    comment = "RELION; version 1.4"
    (folder / "Micrographs").mkdir()
    for m in dataset.micrographs:
        if place == "link":
            (folder / "Micrographs" / m.path.name).symlink_to(os.path.abspath(m.path))  # noqa: PTH100
        elif place == "copy":
            shutil.copyfile(m.path, folder / "Micrographs" / m.path.name)
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
