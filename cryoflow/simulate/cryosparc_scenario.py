"""The jobs of a simulated CryoSPARC project: from the import of micrographs to the last refinement."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cryoflow.simulate.cryosparc_columns import PickColumns, only, rows
from cryoflow.simulate.cryosparc_files import Columns, SimulatedJob, SimulatedOutput


class Scenario:
    """Work of a lab on its micrographs, job by job."""

    def __init__(self, columns: PickColumns) -> None:
        self.columns = columns

    def jobs(self) -> list[SimulatedJob]:
        """Return all jobs, in order."""
        dataset, v4 = self.columns.dataset, self.columns.version >= (4, 0)
        self.columns.link_micrographs()
        exposures = self.columns.exposures()
        ctf = self.columns.exposure_ctf()
        blob = {"uid": exposures["uid"], **only(exposures, "micrograph_blob", "mscope_params")}
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
        by_hand = self.columns.located([m.true_xy_px for m in dataset.micrographs[:n_manual]])
        jobs.append(
            SimulatedJob(
                "J3",
                "manual_picker_v2" if self.columns.version >= (4, 4) else "manual_picker",
                [SimulatedOutput("particles", by_hand, own_file="picked_particles.cs")],
                [("J2", "exposures")],
                title="By hand",
            )
        )

        picked = self.columns.located([m.picks_xy_px for m in dataset.micrographs])
        scores = np.concatenate([m.pick_scores for m in dataset.micrographs]).astype(np.float32)
        is_right = np.concatenate([m.pick_is_right for m in dataset.micrographs])
        stats: Columns = {
            "pick_stats/ncc_score": scores,
            "pick_stats/power": scores * 100,
            "pick_stats/template_idx": np.zeros(len(scores), np.uint32),
        }
        everything = {**picked, **stats}
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
        box = self.columns.boxes(uid)
        particle_ctf = self.columns.particle_ctf()
        handed = {"uid": uid, **only(picked, "location"), **stats}
        box_px = int(box["blob/shape"][0, 0]) * self.columns.binning if len(uid) else 0
        jobs.append(
            SimulatedJob(
                "J5",
                "extract_micrographs_multi" if v4 else "extract_micrographs_cpu_parallel",
                [
                    SimulatedOutput(
                        "particles",
                        {**box, **particle_ctf, **only(picked, "location")},
                        {"uid": uid, **stats},
                        own_file="extracted_particles.cs",
                    )
                ],
                [("J4", "particles"), ("J4", "micrographs")],
                {"box_size_pix": box_px, "bin_size_pix": box_px // self.columns.binning},
            )
        )

        shift = self.columns.shift_to_truth(scale=0.5)
        in_2d: Columns = {
            "alignments2D/split": np.arange(len(uid), dtype=np.uint32) % 2,
            "alignments2D/shift": shift,
            "alignments2D/pose": np.deg2rad(np.concatenate([m.pick_psi_deg for m in dataset.micrographs])).astype(
                np.float32
            ),
            "alignments2D/psize_A": np.full(len(uid), self.columns.box_pixel_size_A, np.float32),
            "alignments2D/class": np.concatenate([m.pick_class for m in dataset.micrographs]).astype(np.uint32),
            "alignments2D/class_posterior": self.columns.rng.uniform(0.6, 1.0, len(uid)).astype(np.float32),
        }
        boxed = {**handed, **particle_ctf}
        jobs.append(
            SimulatedJob(
                "J6",
                "class_2D_new" if self.columns.version >= (4, 4) else "class_2D",
                [SimulatedOutput("particles", {**box, **in_2d}, boxed, file="020_particles")],
                [("J5", "particles")],
                {"class2D_K": int(in_2d["alignments2D/class"].max(initial=0)) + 1},
            )
        )
        after_2d = {**boxed, **only(in_2d, "alignments2D")}
        jobs.append(
            SimulatedJob(
                "J7",
                "select_2D",
                [
                    SimulatedOutput(
                        "particles_selected",
                        rows(box, is_right),
                        rows(after_2d, is_right),
                        own_file="particles_selected.cs",
                    ),
                    SimulatedOutput(
                        "particles_excluded",
                        rows(box, ~is_right),
                        rows(after_2d, ~is_right),
                        own_file="particles_excluded.cs",
                    ),
                ],
                [("J6", "particles")],
            )
        )

        refined = {**only(self.columns.in_3d(), "alignments3D")}
        selected, passed = rows({**box, **refined}, is_right), rows(after_2d, is_right)
        is_good = self.columns.rng.random(int(is_right.sum())) < 0.9
        for job, job_type, file in (
            ("J8", "homo_abinit", "class_{:02d}_final_particles"),
            ("J9", "hetero_refine", "class_{:02d}_00062_particles"),
        ):
            jobs.append(
                SimulatedJob(
                    job, job_type, self._classes(selected, passed, is_good, file), [("J7", "particles_selected")]
                )
            )
        best, best_passed = rows(selected, is_good), rows(passed, is_good)
        stale = self.columns.class_columns(len(best["uid"]), is_good[is_good]) if self.columns.version < (4, 5) else {}
        for job, job_type in (
            ("J10", "homo_refine_new" if self.columns.version >= (3, 0) else "homo_refine"),
            ("J11", "nonuniform_refine_new" if self.columns.version >= (3, 0) else "nonuniform_refine"),
        ):
            output = SimulatedOutput("particles", best, {**best_passed, **stale}, file="004_particles")
            jobs.append(SimulatedJob(job, job_type, [output], [("J9", "particles_class_1")], {"refine_symmetry": "C1"}))
        jobs.append(SimulatedJob("J12", "sharpen", (), [("J11", "volume")]))
        return jobs

    def _classes(
        self, own: Columns, passed: Columns, is_good: npt.NDArray[np.bool_], file: str
    ) -> list[SimulatedOutput]:
        own = {**own, **self.columns.class_columns(len(is_good), is_good)}
        own["alignments3D/class"] = is_good.astype(np.uint32)
        outputs = [
            SimulatedOutput(
                f"particles_class_{k}",
                rows(own, is_good == bool(k)),
                rows(passed, is_good == bool(k)),
                file=file.format(k),
            )
            for k in (0, 1)
        ]
        return [
            *outputs,
            SimulatedOutput("particles_all_classes", own, passed, file=file.partition("_")[2].partition("_")[2]),
        ]
