"""Finished CryoSPARC projects around simulated micrographs: what the demo ingests, and what readers are tested with.

The story is the usual one: micrographs are imported, picked by hand and by a permissive picker, extracted, classified
in 2D, selected, and what survives goes to ab-initio, heterogeneous, homogeneous and non-uniform refinement. Refined
shifts lead from each pick to the true centre: location minus shift.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from cryoflow.files import replacing_folder
from cryoflow.simulate.cryosparc_files import Columns, JobWriter, SimulatedJob, SimulatedOutput, write_project_files
from cryoflow.simulate.dataset import SimulatedDataset, SimulatedMicrograph

_STALE_CLASSES = 3


def write_cryosparc_project(
    folder: str | Path,
    dataset: SimulatedDataset,
    *,
    version: str = "4.5",
    container: Literal["npy", "csdat"] = "npy",
    binning: int = 2,
    shuffle_passthrough: bool = False,
    superset_passthrough: bool = False,
    statuses: Mapping[str, str] | None = None,
    without_job_json: Collection[str] = (),
    without_csg: Collection[str] = (),
    without_location: Collection[str] = (),
    without_micrograph_paths: bool = False,
    without_project_json: bool = False,
    cleared: Collection[str] = (),
    pixel_size_in_location: bool | None = None,
    symmetry_copies: int = 1,
    repeated_rows: int = 0,
    nan_rows: int = 0,
    is_helical: bool = False,
    reextract_after_refinement: bool = False,
    export: str = "",
) -> Path:
    """Write a project of one version of CryoSPARC and return its folder, complete or not at all.

    | job | type |
    |---|---|
    | J1, J2 | import of micrographs, CTF |
    | J3 | manual picker, on the first third of the micrographs: true centres |
    | J4, J5, J6 | blob picker, extraction, 2D classification of all picks, right and wrong |
    | J7 | Select 2D: right picks selected, wrong ones excluded |
    | J8, J9 | ab-initio and heterogeneous refinement into two classes, of which class 1 is good |
    | J10, J11 | homogeneous and non-uniform refinement |
    | J12 | a sharpening job without particles |
    | J13, J14 | symmetry expansion and re-extraction, where asked for |

    Parameters
    ----------
    folder
        The project's folder; replaced where it exists.
    dataset
        Micrographs and picks. Micrographs are linked, not copied, and need not exist.
    version
        2 to 5; it decides `job.json`, names of files and columns.
    container
        Of all datasets.
    binning
        Boxes are Fourier-cropped by this factor.
    shuffle_passthrough
        Passthrough datasets have their rows in another order.
    superset_passthrough
        They hold more particles than the output.
    statuses
        Status by job, where it is not `completed`.
    without_job_json, without_csg
        Jobs that lack these files.
    without_location
        Jobs whose outputs lack the slot `location`.
    without_micrograph_paths
        `location/micrograph_path` is empty; the micrograph is known by its uid alone.
    without_project_json
        `project.json`, `workspaces.json` and `job_manifest.json` were lost.
    cleared
        Jobs that were cleared: `job.json` is all that is left.
    pixel_size_in_location
        Whether `location/micrograph_psize_A` is there; by default from version 4.4 on.
    symmetry_copies
        More than 1 adds J13, in which each particle of J10 stands this many times.
    repeated_rows, nan_rows
        Rows of the picker's dataset that are there twice, and that have NaN for a position.
    is_helical
        Adds the slot `filament` to the picker.
    reextract_after_refinement
        Adds J14, which extracts J10's particles again, recentred.
    export
        A job whose particles are exported to `exports/groups`, if it has any.
    """
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 (links stay as they are named)
    rng = np.random.default_rng([dataset.seed, 2025])
    numbers = tuple(int(part) for part in version.split(".")[:2])
    with replacing_folder(folder) as project:
        writer = JobWriter(project, version, container)
        story = _Story(
            project,
            dataset,
            rng,
            numbers,
            binning,
            pixel_size_in_location if pixel_size_in_location is not None else numbers >= (4, 4),
            without_micrograph_paths,
        )
        jobs = story.jobs(is_helical, repeated_rows, nan_rows, symmetry_copies, reextract_after_refinement)
        for job in jobs:
            job = _disturbed(job, rng, shuffle_passthrough, superset_passthrough, job.uid in without_location)
            if statuses and job.uid in statuses:
                job = SimulatedJob(
                    job.uid, job.job_type, job.outputs, job.inputs, job.params, statuses[job.uid], job.title
                )
            writer.write(job)
        if not without_project_json:
            write_project_files(project, version, [job.uid for job in jobs], dataset.name)
        if export:
            _export(writer, next(job for job in jobs if job.uid == export))
        for uid in cleared:
            _remove(project / uid, lambda name: name != "job.json")
        for uid in without_job_json:
            (project / uid / "job.json").unlink()
        for uid in without_csg:
            _remove(project / uid, lambda name: name.endswith(".csg"))
    return folder


class _Story:
    """The columns of a dataset's picks, and the jobs that carry them."""

    def __init__(
        self,
        project: Path,
        dataset: SimulatedDataset,
        rng: np.random.Generator,
        version: tuple[int, ...],
        binning: int,
        has_pixel_size: bool,
        has_no_paths: bool,
    ) -> None:
        self.project, self.dataset, self.rng, self.version, self.binning = project, dataset, rng, version, binning
        self.has_pixel_size, self.has_no_paths = has_pixel_size, has_no_paths
        self.exposure_uids = rng.integers(1, 2**63, len(dataset.micrographs), dtype=np.uint64)
        self.paths = [
            f"J1/imported/{uid:021d}_{micrograph.path.name}"
            for uid, micrograph in zip(self.exposure_uids.tolist(), dataset.micrographs, strict=True)
        ]

    def jobs(
        self, is_helical: bool, repeated_rows: int, nan_rows: int, symmetry_copies: int, reextract: bool
    ) -> list[SimulatedJob]:
        """All jobs, in order."""
        dataset, v4 = self.dataset, self.version >= (4, 0)
        self._link_micrographs()
        exposures = self._exposures()
        ctf = self._exposure_ctf()
        blob = {"uid": exposures["uid"], **_only(exposures, "micrograph_blob", "mscope_params")}
        jobs = [
            SimulatedJob(
                "J1",
                "import_micrographs",
                [
                    SimulatedOutput(
                        "imported_micrographs", blob, item_type="exposure", own_file="imported_micrographs.cs"
                    )
                ],
            ),
            SimulatedJob(
                "J2",
                "patch_ctf_estimation_multi",
                [
                    SimulatedOutput(
                        "exposures",
                        {"uid": exposures["uid"], **ctf},
                        blob,
                        "exposure",
                        own_file="exposures_ctf_estimated.cs",
                    )
                ],
                [("J1", "imported_micrographs")],
            ),
        ]

        n_manual = max(1, len(dataset.micrographs) // 3)
        by_hand = self._located([m.true_xy_px for m in dataset.micrographs[:n_manual]])
        jobs.append(
            SimulatedJob(
                "J3",
                "manual_picker_v2" if self.version >= (4, 4) else "manual_picker",
                [SimulatedOutput("particles", by_hand, own_file="picked_particles.cs")],
                [("J2", "exposures")],
                title="By hand",
            )
        )

        picked = self._located([m.picks_xy_px for m in dataset.micrographs])
        scores = np.concatenate([m.pick_scores for m in dataset.micrographs]).astype(np.float32)
        is_right = np.concatenate([m.pick_is_right for m in dataset.micrographs])
        stats: Columns = {
            "pick_stats/ncc_score": scores,
            "pick_stats/power": scores * 100,
            "pick_stats/template_idx": np.zeros(len(scores), np.uint32),
        }
        filament: Columns = (
            {"filament/filament_uid": self._uids(len(scores)), "filament/position_A": scores * 0} if is_helical else {}
        )
        everything = _disorder({**picked, **stats, **filament}, repeated_rows, nan_rows)
        jobs.append(
            SimulatedJob(
                "J4",
                "blob_picker_gpu",
                [
                    SimulatedOutput("particles", everything, own_file="picked_particles.cs"),
                    SimulatedOutput(
                        "micrographs",
                        {"uid": exposures["uid"], **ctf},
                        blob,
                        "exposure",
                        own_file="picked_micrographs.cs",
                    ),
                ],
                [("J2", "exposures")],
                {"diameter": dataset.diameter_A * 0.9, "diameter_max": dataset.diameter_A * 1.1},
            )
        )

        uid = picked["uid"]
        box = self._boxes(uid)
        particle_ctf = self._particle_ctf()
        handed = {"uid": uid, **_only(picked, "location"), **stats}
        box_px = int(box["blob/shape"][0, 0]) * self.binning if len(uid) else 0
        jobs.append(
            SimulatedJob(
                "J5",
                "extract_micrographs_multi" if v4 else "extract_micrographs_cpu_parallel",
                [
                    SimulatedOutput(
                        "particles",
                        {**box, **particle_ctf, **_only(picked, "location")},
                        {"uid": uid, **stats},
                        own_file="extracted_particles.cs",
                    )
                ],
                [("J4", "particles"), ("J4", "micrographs")],
                {"box_size_pix": box_px, "bin_size_pix": box_px // self.binning},
            )
        )

        shift = self._shift_to_truth(scale=0.5)
        in_2d: Columns = {
            "alignments2D/split": np.arange(len(uid), dtype=np.uint32) % 2,
            "alignments2D/shift": shift,
            "alignments2D/pose": np.deg2rad(np.concatenate([m.pick_psi_deg for m in dataset.micrographs])).astype(
                np.float32
            ),
            "alignments2D/psize_A": np.full(len(uid), self._box_pixel_size_A, np.float32),
            "alignments2D/class": np.concatenate([m.pick_class for m in dataset.micrographs]).astype(np.uint32),
            "alignments2D/class_posterior": self.rng.uniform(0.6, 1.0, len(uid)).astype(np.float32),
        }
        boxed = {**handed, **particle_ctf}
        jobs.append(
            SimulatedJob(
                "J6",
                "class_2D_new" if self.version >= (4, 4) else "class_2D",
                [SimulatedOutput("particles", {**box, **in_2d}, boxed, file="020_particles")],
                [("J5", "particles")],
                {"class2D_K": int(in_2d["alignments2D/class"].max(initial=0)) + 1},
            )
        )
        after_2d = {**boxed, **_only(in_2d, "alignments2D")}
        jobs.append(
            SimulatedJob(
                "J7",
                "select_2D",
                [
                    SimulatedOutput(
                        "particles_selected",
                        _rows(box, is_right),
                        _rows(after_2d, is_right),
                        own_file="particles_selected.cs",
                    ),
                    SimulatedOutput(
                        "particles_excluded",
                        _rows(box, ~is_right),
                        _rows(after_2d, ~is_right),
                        own_file="particles_excluded.cs",
                    ),
                ],
                [("J6", "particles")],
            )
        )

        refined = {**_only(self._in_3d(), "alignments3D")}
        selected, passed = _rows({**box, **refined}, is_right), _rows(after_2d, is_right)
        is_good = self.rng.random(int(is_right.sum())) < 0.9
        for job, job_type, file in (
            ("J8", "homo_abinit", "class_{:02d}_final_particles"),
            ("J9", "hetero_refine", "class_{:02d}_00062_particles"),
        ):
            jobs.append(
                SimulatedJob(
                    job, job_type, self._classes(selected, passed, is_good, file), [("J7", "particles_selected")]
                )
            )
        best, best_passed = _rows(selected, is_good), _rows(passed, is_good)
        stale = self._class_columns(len(best["uid"]), is_good[is_good]) if self.version < (4, 5) else {}
        for job, job_type in (
            ("J10", "homo_refine_new" if self.version >= (3, 0) else "homo_refine"),
            ("J11", "nonuniform_refine_new" if self.version >= (3, 0) else "nonuniform_refine"),
        ):
            output = SimulatedOutput("particles", best, {**best_passed, **stale}, file="004_particles")
            jobs.append(SimulatedJob(job, job_type, [output], [("J9", "particles_class_1")], {"refine_symmetry": "C1"}))
        jobs.append(SimulatedJob("J12", "sharpen", (), [("J11", "volume")]))
        if symmetry_copies > 1:
            jobs.append(self._symmetry_expanded(best, best_passed, symmetry_copies))
        if reextract:
            jobs.append(self._reextracted(best, best_passed, box_px))
        return jobs

    @property
    def _box_pixel_size_A(self) -> float:
        return self.dataset.micrographs[0].pixel_size_A * self.binning

    def _link_micrographs(self) -> None:
        (self.project / "J1" / "imported").mkdir(parents=True)
        for path, micrograph in zip(self.paths, self.dataset.micrographs, strict=True):
            (self.project / path).symlink_to(os.path.abspath(micrograph.path))  # noqa: PTH100 (links stay)

    def _uids(self, n: int) -> npt.NDArray[np.uint64]:
        return self.rng.integers(1, 2**63, n, dtype=np.uint64)

    def _exposures(self) -> Columns:
        micrographs, n = self.dataset.micrographs, len(self.dataset.micrographs)
        return {
            "uid": self.exposure_uids,
            "micrograph_blob/path": _texts(self.paths),
            "micrograph_blob/idx": np.zeros(n, np.uint32),
            "micrograph_blob/shape": np.array([m.shape_yx for m in micrographs], np.uint32),
            "micrograph_blob/psize_A": np.array([m.pixel_size_A for m in micrographs], np.float32),
            "micrograph_blob/format": _texts(["MRC/1"] * n),
            "mscope_params/accel_kv": np.full(n, self.dataset.voltage_kV, np.float32),
            "mscope_params/cs_mm": np.full(n, self.dataset.cs_mm, np.float32),
            "mscope_params/exp_group_id": np.ones(n, np.uint32),
        }

    def _exposure_ctf(self) -> Columns:
        return self._ctf(list(self.dataset.micrographs))

    def _ctf(self, micrographs: list[SimulatedMicrograph]) -> Columns:
        n = len(micrographs)
        return {
            "ctf/accel_kv": np.full(n, self.dataset.voltage_kV, np.float32),
            "ctf/cs_mm": np.full(n, self.dataset.cs_mm, np.float32),
            "ctf/amp_contrast": np.full(n, self.dataset.amplitude_contrast, np.float32),
            "ctf/df1_A": np.array([m.defocus_u_A for m in micrographs], np.float32),
            "ctf/df2_A": np.array([m.defocus_v_A for m in micrographs], np.float32),
            "ctf/df_angle_rad": np.deg2rad([m.defocus_angle_deg for m in micrographs]).astype(np.float32),
            "ctf/phase_shift_rad": np.zeros(n, np.float32),
        }

    def _particle_ctf(self) -> Columns:
        counts = [len(m.picks_xy_px) for m in self.dataset.micrographs]
        return {name: np.repeat(values, counts, axis=0) for name, values in self._exposure_ctf().items()}

    def _located(self, positions: list[npt.NDArray[np.float64]]) -> Columns:
        """Columns `uid` and `location/*` of picks given for each micrograph in turn."""
        counts = [len(xy) for xy in positions]
        micrographs = self.dataset.micrographs[: len(positions)]
        xy_px = np.concatenate([np.reshape(xy, (-1, 2)) for xy in positions])
        shapes = np.repeat(np.array([m.shape_yx for m in micrographs], np.uint32).reshape(-1, 2), counts, axis=0)
        paths = [""] * len(micrographs) if self.has_no_paths else self.paths[: len(micrographs)]
        columns: Columns = {
            "uid": self._uids(len(xy_px)),
            "location/micrograph_uid": np.repeat(self.exposure_uids[: len(micrographs)], counts),
            "location/exp_group_id": np.ones(len(xy_px), np.uint32),
            "location/micrograph_path": np.repeat(_texts(paths), counts),
            "location/micrograph_shape": shapes,
            "location/center_x_frac": (xy_px[:, 0] / shapes[:, 1]).astype(np.float32),
            "location/center_y_frac": (xy_px[:, 1] / shapes[:, 0]).astype(np.float32),
        }
        if self.has_pixel_size:
            sizes = np.array([m.pixel_size_A for m in micrographs], np.float32)
            columns["location/micrograph_psize_A"] = np.repeat(sizes, counts)
        return columns

    def _boxes(self, uid: npt.NDArray[np.generic]) -> Columns:
        edge = 2 * round(1.6 * self.dataset.diameter_A / self._box_pixel_size_A / 2)
        counts = [len(m.picks_xy_px) for m in self.dataset.micrographs]
        stacks = [f"J5/extract/{Path(p).name.rsplit('.', 1)[0]}_particles.mrc" for p in self.paths]
        return {
            "uid": uid,
            "blob/path": np.repeat(_texts(stacks), counts),
            "blob/idx": np.concatenate([np.arange(n, dtype=np.uint32) for n in counts]),
            "blob/shape": np.full((len(uid), 2), edge, np.uint32),
            "blob/psize_A": np.full(len(uid), self._box_pixel_size_A, np.float32),
            "blob/sign": np.full(len(uid), -1.0, np.float32),
        }

    def _shift_to_truth(self, scale: float = 1.0) -> npt.NDArray[np.float32]:
        """Shift (x, y) of each pick in pixels of its box: what is subtracted to reach the nearest particle."""
        shifts = []
        for m in self.dataset.micrographs:
            offset_px = np.zeros((len(m.picks_xy_px), 2))
            if len(m.true_xy_px) and len(m.picks_xy_px):
                difference = m.picks_xy_px[:, None] - m.true_xy_px[None]
                nearest = np.square(difference).sum(axis=2).argmin(axis=1)
                offset_px = difference[np.arange(len(nearest)), nearest]
                offset_px[~m.pick_is_right] = self.rng.normal(0, 2, (int((~m.pick_is_right).sum()), 2))
            shifts.append(offset_px * (m.pixel_size_A / self._box_pixel_size_A) * scale)
        return np.concatenate(shifts).astype(np.float32)

    def _in_3d(self) -> Columns:
        shift = self._shift_to_truth()
        n = len(shift)
        return {
            "alignments3D/split": np.arange(n, dtype=np.uint32) % 2,
            "alignments3D/shift": shift,
            "alignments3D/pose": self.rng.normal(0, 1, (n, 3)).astype(np.float32),
            "alignments3D/psize_A": np.full(n, self._box_pixel_size_A, np.float32),
        }

    def _class_columns(self, n: int, is_good: npt.NDArray[np.bool_]) -> Columns:
        """What a classification into two classes adds, by the convention of the version."""
        good = np.where(is_good, self.rng.uniform(0.7, 1.0, n), self.rng.uniform(0.0, 0.3, n)).astype(np.float32)
        posterior = np.stack([1 - good, good], axis=1)
        if self.version >= (4, 5):
            return {"alignments3D_multi/class_posterior": posterior}
        return {
            f"alignments_class_{k}/{name}": values
            for k in (0, 1)
            for name, values in (("class", np.full(n, k, np.uint32)), ("class_posterior", posterior[:, k]))
        }

    def _classes(
        self, own: Columns, passed: Columns, is_good: npt.NDArray[np.bool_], file: str
    ) -> list[SimulatedOutput]:
        own = {**own, **self._class_columns(len(is_good), is_good)}
        own["alignments3D/class"] = is_good.astype(np.uint32)
        outputs = [
            SimulatedOutput(
                f"particles_class_{k}",
                _rows(own, is_good == bool(k)),
                _rows(passed, is_good == bool(k)),
                file=file.format(k),
            )
            for k in (0, 1)
        ]
        return [
            *outputs,
            SimulatedOutput("particles_all_classes", own, passed, file=file.partition("_")[2].partition("_")[2]),
        ]

    def _symmetry_expanded(self, own: Columns, passed: Columns, copies: int) -> SimulatedJob:
        repeated = {name: np.repeat(values, copies, axis=0) for name, values in {**own, **passed}.items()}
        columns: Columns = {"uid": self._uids(len(repeated["uid"])), "sym_expand/src_uid": repeated.pop("uid")}
        columns["sym_expand/idx"] = np.tile(np.arange(copies, dtype=np.uint32), len(own["uid"]))
        output = SimulatedOutput("particles", {**columns, **repeated}, own_file="expanded_particles.cs")
        return SimulatedJob("J13", "sym_expand", [output], [("J10", "particles")])

    def _reextracted(self, own: Columns, passed: Columns, box_px: int) -> SimulatedJob:
        """Recentred: the location moves by whole pixels, and the shift keeps the rest."""
        shift = own["alignments3D/shift"].astype(np.float64) * self.binning
        whole = np.round(shift)
        shapes = passed["location/micrograph_shape"].astype(np.float64)
        moved = dict(passed)
        for axis, name in ((0, "location/center_x_frac"), (1, "location/center_y_frac")):
            size = shapes[:, 1 - axis]
            moved[name] = (passed[name].astype(np.float64) - whole[:, axis] / size).astype(np.float32)
        rest = {"alignments3D/shift": ((shift - whole) / self.binning).astype(np.float32)}
        output = SimulatedOutput(
            "particles",
            {**own, **_only(moved, "location"), **rest},
            {"uid": own["uid"], **_only(passed, "ctf")},
            own_file="extracted_particles.cs",
        )
        return SimulatedJob(
            "J14", "extract_micrographs_multi", [output], [("J10", "particles")], {"box_size_pix": box_px}
        )


def _disturbed(
    job: SimulatedJob, rng: np.random.Generator, shuffle: bool, superset: bool, without_location: bool
) -> SimulatedJob:
    outputs = []
    for output in job.outputs:
        own, passed = output.own, output.passed
        if without_location:
            own, passed = ({n: v for n, v in c.items() if not n.startswith("location/")} for c in (own, passed))
        if passed and output.item_type == "particle":
            if superset:
                more = {n: v.copy() for n, v in _rows(passed, np.arange(min(5, len(passed["uid"])))).items()}
                more["uid"] = more["uid"].astype(np.uint64) + np.uint64(1)
                passed = {n: np.concatenate([more[n], v]) for n, v in passed.items()}
            if shuffle:
                passed = _rows(passed, rng.permutation(len(passed["uid"])))
        outputs.append(
            SimulatedOutput(output.name, own, passed, output.item_type, output.file, output.own_file, output.passed_as)
        )
    return SimulatedJob(job.uid, job.job_type, outputs, job.inputs, job.params, job.status, job.title)


def _disorder(columns: Columns, repeated_rows: int, nan_rows: int) -> Columns:
    if repeated_rows:
        columns = {name: np.concatenate([values, values[:repeated_rows]]) for name, values in columns.items()}
    if nan_rows:
        x = columns["location/center_x_frac"].copy()
        x[repeated_rows : repeated_rows + nan_rows] = np.nan
        columns = {**columns, "location/center_x_frac": x}
    return columns


def _export(writer: JobWriter, job: SimulatedJob) -> None:
    """One merged dataset with its `.csg`, as "Export" writes them; paths inside start with `>`."""
    for output in job.outputs:
        if output.item_type != "particle":
            continue
        merged = {**output.passed, **output.own}
        for name in ("location/micrograph_path", "blob/path"):
            if name in merged:
                merged[name] = np.array([b">" + path for path in merged[name].tolist()])
        name = f"{job.uid}_{output.name}"
        target = JobWriter(writer.project / "exports" / "groups", writer.version, writer.container)
        (target.project / name).mkdir(parents=True, exist_ok=True)
        target.write(
            SimulatedJob(name, job.job_type, [SimulatedOutput(output.name, merged, own_file=f"{name}_exported.cs")])
        )
        for rest in ("job.json", "job.log", "events.bson"):
            (target.project / name / rest).unlink()


def _only(columns: Columns, *slots: str) -> Columns:
    return {name: values for name, values in columns.items() if name.partition("/")[0] in slots}


def _rows(columns: Columns, rows: npt.NDArray[np.generic]) -> Columns:
    return {name: values[rows] for name, values in columns.items()}


def _texts(texts: list[str]) -> npt.NDArray[np.bytes_]:
    encoded = [os.fsencode(text) for text in texts]
    return np.array(encoded, f"S{max([1, *map(len, encoded)])}")


def _remove(folder: Path, is_unwanted: object) -> None:
    assert callable(is_unwanted)
    for entry in sorted(folder.iterdir()):
        if is_unwanted(entry.name):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
