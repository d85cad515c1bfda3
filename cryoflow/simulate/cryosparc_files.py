"""Jobs of simulated CryoSPARC projects on disk: `job.json` of either generation, datasets and `.csg` files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from cryoflow.formats.cs import write_cs

Columns = dict[str, npt.NDArray[np.generic]]
PROJECT_UID = "P12"
_WHEN = "2025-03-14T09:26:53.000000+00:00"


@dataclass(frozen=True)
class SimulatedOutput:
    """One output group.

    Attributes
    ----------
    own
        Columns that the job made, `uid` among them.
    passed
        Columns that it passed on, `uid` among them; rows may be in another order, or more.
    file
        Name of the dataset of `own` without the job's prefix, such as `003_particles`; None for names without a prefix.
    own_file
        Name of that dataset where it has no prefix, such as `extracted_particles.cs`.
    """

    name: str
    own: Columns
    passed: Columns = field(default_factory=dict)
    item_type: str = "particle"
    file: str | None = None
    own_file: str = ""
    passed_as: str = ""
    """Group that names the passthrough file; by default `name`."""


@dataclass(frozen=True)
class SimulatedJob:
    """One job: inputs are (job, output group), parameters are those a user set."""

    uid: str
    job_type: str
    outputs: Sequence[SimulatedOutput] = ()
    inputs: Sequence[tuple[str, str]] = ()
    params: Mapping[str, object] = field(default_factory=dict)
    status: str = "completed"
    title: str = ""


@dataclass(frozen=True)
class JobWriter:
    """Writes jobs the way a version of CryoSPARC does.

    Attributes
    ----------
    project
        The project's folder.
    version
        Such as `4.5`.
    container
        Of the datasets.
    """

    project: Path
    version: str
    container: Literal["npy", "csdat"] = "npy"

    @property
    def major(self) -> int:
        """Return the first number of the version."""
        return int(self.version.split(".")[0])

    def prefix(self, job: str, *, is_iteration: bool = False) -> str:
        """Return what file names of a job start with: the project's uid stands there up to version 3."""
        if self.major >= 4:
            return f"{job}_"
        return f"{'cryosparc_' if is_iteration else ''}{PROJECT_UID}_{job}_"

    def write(self, job: SimulatedJob) -> None:
        """Write a job's folder."""
        folder = self.project / job.uid
        folder.mkdir(exist_ok=True)
        results: list[dict[str, object]] = []
        for output in job.outputs:
            found = self._write_output(job, folder, output)
            results += found
            _write_csg(folder / f"{job.uid}_{output.name}.csg", output, found, self.version)
        content = self._v5(job, results) if self.major >= 5 else self._v4(job, results)
        (folder / "job.json").write_text(json.dumps(content, indent=4))
        (folder / "job.log").write_text("simulated by cryoflow\n")
        (folder / "events.bson").write_bytes(b"")

    def _write_output(self, job: SimulatedJob, folder: Path, output: SimulatedOutput) -> list[dict[str, object]]:
        files = []
        if output.own:
            numbered = f"{self.prefix(job.uid, is_iteration=True)}{output.file or output.name}.cs"
            name = output.own_file or numbered
            write_cs(folder / name, output.own, container=self.container)
            files.append((name, output.own, False))
        if output.passed:
            name = f"{self.prefix(job.uid)}passthrough_{output.passed_as or output.name}.cs"
            write_cs(folder / name, output.passed, container=self.container)
            files.append((name, output.passed, True))
        results: list[dict[str, object]] = []
        for name, columns, is_passed in files:
            for slot in dict.fromkeys(c.partition("/")[0] for c in columns if "/" in c):
                results.append(
                    {
                        "group": output.name,
                        "type": output.item_type,
                        "name": slot,
                        "file": f"{job.uid}/{name}",
                        "n": len(columns["uid"]),
                        "passthrough": is_passed,
                    }
                )
        return results

    def _v4(self, job: SimulatedJob, results: Sequence[Mapping[str, object]]) -> dict[str, object]:
        return {
            "uid": job.uid,
            "project_uid": PROJECT_UID,
            "workspace_uids": ["W1"],
            "job_type": job.job_type,
            "type": job.job_type,
            "title": job.title or f"New Job {job.uid}",
            "status": job.status,
            "created_at": {"$date": _WHEN},
            "version": f"v{self.version}",
            "has_error": job.status == "failed",
            "deleted": False,
            "parents": sorted({uid for uid, _ in job.inputs}),
            "children": [],
            "params_base": {},
            "params_spec": {key: {"value": value} for key, value in job.params.items()},
            "input_slot_groups": [
                {
                    "name": group,
                    "connections": [
                        {
                            "job_uid": uid,
                            "group_name": group,
                            "slots": [{"slot_name": None, "job_uid": uid, "group_name": group}],
                        }
                    ],
                }
                for uid, group in job.inputs
            ],
            "output_result_groups": [
                {
                    "uid": f"{job.uid}-G{i}",
                    "name": output.name,
                    "type": output.item_type,
                    "num_items": _n_items(output),
                    "contains": [
                        {"group_name": output.name, "name": r["name"]} for r in results if r["group"] == output.name
                    ],
                    "passthrough": bool(output.passed),
                }
                for i, output in enumerate(job.outputs)
            ],
            "output_results": [
                {
                    "uid": f"{job.uid}-R{i}",
                    "type": f"{r['type']}.{r['name']}",
                    "group_name": r["group"],
                    "name": r["name"],
                    "versions": [0],
                    "metafiles": [r["file"]],
                    "num_items": [r["n"]],
                    "passthrough": r["passthrough"],
                }
                for i, r in enumerate(results)
            ],
        }

    def _v5(self, job: SimulatedJob, results: Sequence[Mapping[str, object]]) -> dict[str, object]:
        outputs = {
            output.name: {
                "type": output.item_type,
                "title": output.name,
                "num_items": _n_items(output),
                "results": [
                    {
                        "name": r["name"],
                        "dtype": r["name"],
                        "versions": [0],
                        "metafiles": [r["file"]],
                        "num_items": [r["n"]],
                        "passthrough": r["passthrough"],
                    }
                    for r in results
                    if r["group"] == output.name
                ],
            }
            for output in job.outputs
        }
        inputs: dict[str, object] = {}
        for i, (uid, group) in enumerate(job.inputs):
            result = {
                "name": "location",
                "dtype": "location",
                "job_uid": uid,
                "output": group,
                "result": "location",
                "version": "F",
            }
            connection = {"job_uid": uid, "output": group, "results": [result]}
            inputs[group if group not in inputs else f"{group}_{i}"] = {"type": "particle", "connections": [connection]}
        return {
            "uid": job.uid,
            "project_uid": PROJECT_UID,
            "workspace_uids": ["W1"],
            "job_dir": job.uid,
            "title": job.title,
            "status": job.status,
            "created_at": _WHEN,
            "dumped_at": _WHEN,
            "last_dumped_version": f"v{self.version}",
            "deleted": False,
            "parents": sorted({uid for uid, _ in job.inputs}),
            "spec": {"type": job.job_type, "params": dict(job.params), "inputs": inputs, "outputs": outputs},
        }


def write_project_files(project: Path, version: str, jobs: Sequence[str], title: str) -> None:
    """Write what lies beside the jobs: `project.json`, `workspaces.json`, `job_manifest.json`; from 4 on `cs.lock`."""
    content = {
        "uid": PROJECT_UID,
        "title": title,
        "project_dir": str(project),
        "owner_user_id": "simulated",
        "created_at": _WHEN,
        "dumped_at": _WHEN,
        "last_dumped_version": f"v{version}",
    }
    (project / "project.json").write_text(json.dumps(content, indent=4))
    (project / "workspaces.json").write_text(json.dumps([{"uid": "W1", "title": "simulated"}], indent=4))
    (project / "job_manifest.json").write_text(json.dumps({"jobs": list(jobs)}, indent=4))
    if int(version.split(".")[0]) >= 4:
        (project / "cs.lock").write_text("simulated\n")


def _n_items(output: SimulatedOutput) -> int:
    return len((output.own or output.passed)["uid"])


def _write_csg(path: Path, output: SimulatedOutput, results: Sequence[Mapping[str, object]], version: str) -> None:
    lines = [
        f"created: {_WHEN[:19].replace('T', ' ')}",
        "group:",
        "  description: ''",
        f"  name: {output.name}",
        f"  title: {output.name}",
        f"  type: {output.item_type}",
        "results:",
    ]
    for r in results:
        file = str(r["file"]).rpartition("/")[2]
        lines += [
            f"  {r['name']}:",
            f"    metafile: '>{file}'",
            f"    num_items: {r['n']}",
            f"    type: {r['type']}.{r['name']}",
        ]
    path.write_text("\n".join([*lines, f"version: v{version}"]) + "\n")
