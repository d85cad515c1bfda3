"""Simulated RELION projects with what real ones have at times: lost pipelines, continued runs, other selections."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from cryoflow.simulate.relion_graph import Graph
from cryoflow.simulate.relion_project import Jobs, generation_of, write_relion_1
from cryoflow.simulate.relion_tables import Columns, Tables
from cryoflow.simulate.simulated_dataset import SimulatedDataset, SimulatedMicrograph
from cryoflow.storage.folders import replacing_folder

Selection = Literal["interactive", "class2dauto", "onvalue", "removeduplicates", "split"]
Place = Literal["link", "copy", "missing"]


def write_relion_project(
    folder: str | Path,
    dataset: SimulatedDataset,
    *,
    version: str = "5.0",
    micrographs: Place = "link",
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
    select2d: Selection = "interactive",
    is_tomo: bool = False,
    status: Mapping[str, str] | None = None,
) -> Path:
    """Write the project of `cryoflow.simulate.relion_project`, changed as the options say.

    Parameters
    ----------
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
        Whether the refined particles went through CtfRefine and Polish, and were extracted again, recentered, and
        refined again.
    select2d
        How 2D classes were selected. `split` leaves two files, `removeduplicates` follows on an interactive one.
    is_tomo
        Mark the jobs as ones of tomography.
    status
        Folder of a type (`AutoPick`) -> `Running`, `Scheduled`, `Failed`, `Aborted`.
    """
    folder = Path(folder)
    generation = generation_of(folder, version)
    with replacing_folder(folder) as hidden:
        tables = Tables(dataset, generation, optics_last, optics_groups, keeps_micrograph_pixel_size)
        if generation < (2, 0):
            write_relion_1(hidden, dataset, tables)
            for link in (hidden / "Micrographs").glob("*.mrc"):
                _put(micrographs, link)
            return folder
        graph = _Graph(
            hidden, generation, first_job, dot_names, aliases, status=dict(status or {}), of_tomography=is_tomo
        )
        jobs = _Jobs(graph, dataset, tables)
        jobs.where, jobs.selection, jobs.converged, jobs.continued = micrographs, select2d, converged, continued
        jobs.prepare()
        jobs.pick()
        jobs.classify()
        jobs.refine()
        if went_on:
            jobs.go_on()
        if pipeline:
            graph.write(nested_copies=nested_copies)
    return folder


def _put(place: Place, link: Path) -> None:
    """Put a copy in place of a link, or nothing."""
    if place != "link":
        source = link.readlink()
        link.unlink()
        if place == "copy":
            shutil.copyfile(source, link)


@dataclass
class _Graph(Graph):
    """Jobs that did not come to a good end, or are of tomography."""

    status: dict[str, str] = field(default_factory=dict)
    of_tomography: bool = False

    def add(self, kind: str, **about: object) -> str:  # type: ignore[override]
        about |= {"status": self.status.get(kind, "Succeeded"), "is_tomo": self.of_tomography}
        return super().add(kind, **about)  # type: ignore[arg-type]


class _Jobs(Jobs):
    """Jobs of other users."""

    where: Place = "link"
    selection: Selection = "interactive"
    converged = True
    continued = False

    def place(self, micrograph: SimulatedMicrograph, folder: Path) -> None:
        super().place(micrograph, folder)
        _put(self.where, folder / micrograph.path.name)

    def run_name(self, iteration: str = "") -> str:
        if self.continued and self.graph.generation < (4, 0):
            return f"run_ct10_{iteration}" if iteration else "run_ct12"
        return super().run_name(iteration)

    def select_2d(self) -> None:
        if self.selection == "removeduplicates":
            super().select_2d()
            self.select(self.is_right, "", "removeduplicates", self.particles_node)
        else:
            of_model = self.selection in ("interactive", "class2dauto")
            self.select(self.is_right, "Class2D", self.selection, "" if of_model else self.data_node)

    def write_selected(self, name: str, chosen: Columns) -> dict[str, str]:
        if self.selection != "split" or self.model_node.startswith("Class3D"):
            return super().write_selected(name, chosen)
        half = np.arange(len(chosen["group"])) % 2
        files = [f"particles_split{k + 1}.star" for k in (0, 1)]
        for k, file in enumerate(files):
            self.write_particles(f"{name}/{file}", {c: v[half == k] for c, v in chosen.items()})
        return dict.fromkeys(files, "particles")

    def converge(self, start: str) -> dict[str, str]:
        return super().converge(start) if self.converged else {}

    def go_on(self) -> None:
        """CTF refinement and polishing, then a recentered extraction of the polished particles and its refinement."""
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
        self.write_particles(f"{name}/{file}", self.particles)
        inputs = tuple(dict.fromkeys(v for v in (options.get("star_mics", ""), self.particles_node) if v))
        label = label if self.graph.uses_labels else ""
        self.graph.add(kind, inputs=inputs, outputs={file: "particles"}, options=options, label=label)
        self.particles_node = f"{name}/{file}"
