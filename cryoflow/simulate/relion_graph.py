"""The files that make a folder a RELION project, in each generation's words: the pipeline, jobs' options and marks."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryoflow.formats.star import write_star
from cryoflow.storage.files import write_atomically

_NUMBERS = {
    "Import": 0, "MotionCorr": 1, "CtfFind": 2, "ManualPick": 3, "AutoPick": 4, "Extract": 5, "Select": 7, "Class2D": 8,
    "Class3D": 9, "Refine3D": 10, "Polish": 20, "CtfRefine": 21, "External": 99,
}  # fmt: skip
_LABELS = {
    "Import": "relion.import.movies", "MotionCorr": "relion.motioncorr.own", "CtfFind": "relion.ctffind.ctffind4",
    "ManualPick": "relion.manualpick", "AutoPick": "relion.autopick.log", "Extract": "relion.extract",
    "Select": "relion.select.interactive", "Class2D": "relion.class2d", "Class3D": "relion.class3d",
    "Refine3D": "relion.refine3d", "Polish": "relion.polish", "CtfRefine": "relion.ctfrefine",
    "External": "relion.external",
}  # fmt: skip
_NODES = {
    "movies": (0, "MicrographMoviesGroupMetadata.star.relion"),
    "micrographs": (1, "MicrographGroupMetadata.star.relion"),
    "coordinates": (2, "MicrographCoordsGroup.star.relion"),
    "particles": (3, "ParticleGroupMetadata.star.relion"),
    "averages": (5, "ImagesGroupMetadata.star.relion.classaverages"),
    "map": (6, "DensityMap.mrc.relion"),
    "model": (8, "ParticleGroupMetadata.star.relion.model"),
    "optimiser": (9, "OptimiserData.star.relion"),
}
_STATUS = {"Running": 0, "Scheduled": 1, "Succeeded": 2, "Failed": 3, "Aborted": 4}
_RUN_JOB_TEXT = {
    "star_mics": "micrograph STAR file: ",
    "coords_suffix": "Input coordinates: ",
    "extract_size": "Particle box size (pix):",
    "do_rescale": "Rescale particles?",
    "rescale": "Re-scaled size (pixels): ",
    "fn_img": "Input images STAR file:",
    "nr_classes": "Number of classes:",
    "bin_factor": "Binning factor:",
    "fn_input_autopick": "Input micrographs for autopick:",
    "fn_in": "Input micrographs:",
    "fn_model": "Select classes from model.star:",
}


@dataclass
class Graph:
    """The jobs of a project that is being written, in a folder that nobody sees before it is whole.

    Attributes
    ----------
    folder
        The project.
    generation
        (major, minor) of RELION.
    first_job
        Number of the first job.
    dot_names
        Write `./` before names in the pipeline, as some RELION 2 projects have it.
    aliases
        Give each job an alias, with its link.
    """

    folder: Path
    generation: tuple[int, int]
    first_job: int = 1
    dot_names: bool = False
    aliases: bool = True
    _processes: list[tuple[str, str, str, str]] = field(default_factory=list)
    _nodes: dict[str, str] = field(default_factory=dict)
    _inputs: list[tuple[str, str]] = field(default_factory=list)
    _outputs: list[tuple[str, str]] = field(default_factory=list)

    @property
    def uses_labels(self) -> bool:
        """Return whether types and states are words, as from RELION 4 on."""
        return self.generation >= (4, 0)

    @property
    def comment(self) -> str:
        """Return the comment that RELION writes above a block."""
        if self.generation < (3, 1):
            return f"RELION; version {self.generation[0]}.{self.generation[1]}"
        return "version " + {(3, 1): "30001", (4, 0): "40001"}.get(self.generation, "50001")

    def next_name(self, kind: str) -> str:
        """Return the name of the next job, `Class2D/job007`."""
        return f"{kind}/job{self.first_job + len(self._processes):03d}"

    def add(
        self,
        kind: str,
        *,
        inputs: tuple[str, ...] = (),
        outputs: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None,
        label: str = "",
        alias: str = "",
        status: str = "Succeeded",
        is_tomo: bool = False,
    ) -> str:
        """Enter a job whose files are written, and write its options and marks.

        Parameters
        ----------
        outputs
            File in the job's folder -> kind of node.
        """
        name = self.next_name(kind)
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        alias = alias if self.aliases else ""
        self._processes.append((f"{name}/", f"{kind}/{alias}/" if alias else "None", label or kind, status))
        self._inputs += [(node, f"{name}/") for node in inputs]
        for file, node in (outputs or {}).items():
            self._nodes[f"{name}/{file}"] = node
            self._outputs.append((f"{name}/", f"{name}/{file}"))
        if alias:
            (self.folder / kind / alias).symlink_to(f"../{name}/", target_is_directory=True)
        self._write_options(folder, kind, label, options or {}, is_tomo)
        if self.generation >= (3, 1):
            mark = {"Succeeded": "SUCCESS", "Failed": "FAILURE", "Aborted": "ABORTED"}.get(status)
            if mark:
                (folder / f"RELION_JOB_EXIT_{mark}").touch()
            self._write_pipeline(folder / "job_pipeline.star", only=f"{name}/", status="Running")
        for file in ("run.out", "run.err", "note.txt"):
            (folder / file).touch()
        return name

    def write(self, *, nested_copies: bool = True) -> None:
        """Write `default_pipeline.star`, its copies in job folders, `.Nodes` and `.gui_projectdir`."""
        self._write_pipeline(self.folder / "default_pipeline.star")
        if nested_copies:
            for name, *_ in self._processes:
                shutil.copyfile(self.folder / "default_pipeline.star", self.folder / name / "default_pipeline.star")
        (self.folder / ".gui_projectdir").touch()
        for node, kind in self._nodes.items():
            stub = self.folder / ".Nodes" / str(_NODES[kind][0]) / node
            stub.parent.mkdir(parents=True, exist_ok=True)
            stub.touch()

    def _write_pipeline(self, path: Path, *, only: str = "", status: str = "") -> None:
        dot = "./" if self.dot_names else ""
        processes = [p for p in self._processes if p[0] == (only or p[0])]
        kinds = [(kind, name.split("/")[0]) for name, _, kind, _ in processes]
        words = [status or p[3] for p in processes]
        type_name, status_name, node_name = (
            ("rlnPipeLineProcessTypeLabel", "rlnPipeLineProcessStatusLabel", "rlnPipeLineNodeTypeLabel")
            if self.uses_labels
            else ("rlnPipeLineProcessType", "rlnPipeLineProcessStatus", "rlnPipeLineNodeType")
        )
        types = [_LABELS.get(kind, kind) if self.uses_labels else _NUMBERS[base] for kind, base in kinds]
        inputs = [e for e in self._inputs if e[1] == (only or e[1])]
        outputs = [e for e in self._outputs if e[0] == (only or e[0])]
        nodes = {
            n: k for n, k in self._nodes.items() if not only or n in {e[0] for e in inputs} | {e[1] for e in outputs}
        }
        blocks: dict[str, Mapping[str, object]] = {
            "pipeline_general": {"rlnPipeLineJobCounter": self.first_job + len(self._processes)},
            "pipeline_processes": {
                "rlnPipeLineProcessName": [dot + p[0] for p in processes],
                "rlnPipeLineProcessAlias": [p[1] for p in processes],
                type_name: types,
                status_name: words if self.uses_labels else [_STATUS[w] for w in words],
            },
            "pipeline_nodes": {
                "rlnPipeLineNodeName": [dot + n for n in nodes],
                node_name: [_NODES[k][1] if self.uses_labels else _NODES[k][0] for k in nodes.values()],
            },
            "pipeline_input_edges": {
                "rlnPipeLineEdgeFromNode": [dot + e[0] for e in inputs],
                "rlnPipeLineEdgeProcess": [dot + e[1] for e in inputs],
            },
            "pipeline_output_edges": {
                "rlnPipeLineEdgeProcess": [dot + e[0] for e in outputs],
                "rlnPipeLineEdgeToNode": [dot + e[1] for e in outputs],
            },
        }
        write_star(path, blocks, comment=self.comment)  # type: ignore[arg-type]

    def _write_options(self, folder: Path, kind: str, label: str, options: Mapping[str, str], is_tomo: bool) -> None:
        if self.generation < (3, 1):
            lines = [f"job_type == {_NUMBERS[kind]}", "is_continue == false"]
            lines += [f"{_RUN_JOB_TEXT.get(key, key)} == {value}" for key, value in options.items()]
            write_atomically(folder / "run.job", "\n".join(lines) + "\n")
            return
        job: dict[str, object] = {"rlnJobIsContinue": 0}
        if self.uses_labels:
            job = {"rlnJobTypeLabel": _LABELS.get(label or kind, label or kind), **job, "rlnJobIsTomo": int(is_tomo)}
        else:
            job = {"rlnJobType": _NUMBERS[kind], **job}
        values = {"rlnJobOptionVariable": list(options), "rlnJobOptionValue": list(options.values())}
        write_star(folder / "job.star", {"job": job, "joboptions_values": values}, comment=self.comment)  # type: ignore[dict-item]
