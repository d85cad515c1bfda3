"""Writes a CryoSPARC project with one large job: `python make_cs_project.py FOLDER npy|csdat PICKS MICROGRAPHS`."""

from __future__ import annotations

import sys
from pathlib import Path

import mrcfile
import numpy as np

from cryoflow.simulate.cryosparc_files import JobWriter, SimulatedJob, SimulatedOutput, write_project_files

SHAPE_YX = (4092, 5760)


def main() -> None:
    """Write micrographs (empty files), their exposures, and the job."""
    project, container, n, n_micrographs = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    rng = np.random.default_rng(7)
    uids = rng.integers(1, 2**63, n_micrographs, dtype=np.uint64)
    names = [f"{u:021d}_FoilHole_{i:06d}_Data_patch_aligned_doseweighted.mrc" for i, u in enumerate(uids.tolist())]
    (project / "J1" / "imported").mkdir(parents=True)
    image = project / "J1" / "imported" / "micrograph.mrc"
    with mrcfile.new_mmap(image, SHAPE_YX, mrc_mode=0) as file:  # all micrographs are links to one sparse file
        file.voxel_size = 0.83
    for name in names:
        (project / "J1" / "imported" / name).symlink_to(image.name)
    paths = np.array([f"J1/imported/{name}".encode() for name in names])
    writer = JobWriter(project, "4.5", container)  # type: ignore[arg-type]
    exposures = {
        "uid": uids,
        "micrograph_blob/path": paths,
        "micrograph_blob/shape": np.tile(np.array(SHAPE_YX, np.uint32), (n_micrographs, 1)),
        "micrograph_blob/psize_A": np.full(n_micrographs, 0.83, np.float32),
        "ctf/accel_kv": np.full(n_micrographs, 300, np.float32),
        "ctf/cs_mm": np.full(n_micrographs, 2.7, np.float32),
        "ctf/amp_contrast": np.full(n_micrographs, 0.1, np.float32),
        "ctf/df1_A": rng.uniform(1e4, 2e4, n_micrographs).astype(np.float32),
        "ctf/df2_A": rng.uniform(1e4, 2e4, n_micrographs).astype(np.float32),
        "ctf/df_angle_rad": rng.uniform(0, 3, n_micrographs).astype(np.float32),
    }
    output = SimulatedOutput(
        "imported_micrographs", exposures, item_type="exposure", own_file="imported_micrographs.cs"
    )
    writer.write(SimulatedJob("J1", "import_micrographs", [output]))
    which = rng.integers(0, n_micrographs, n)
    columns = {
        "uid": rng.permutation(np.arange(1, n + 1, dtype=np.uint64)) * np.uint64(9_000_000_000),
        "blob/path": (stacks := np.char.replace(paths, b"J1/imported", b"J2/extract"))[which],
        "blob/idx": rng.integers(0, 400, n).astype(np.uint32),
        "blob/shape": np.full((n, 2), 256, np.uint32),
        "blob/psize_A": np.full(n, 0.83 * 1.5, np.float32),
        "location/micrograph_uid": uids[which],
        "location/exp_group_id": np.ones(n, np.uint32),
        "location/micrograph_path": paths[which],
        "location/micrograph_shape": np.tile(np.array(SHAPE_YX, np.uint32), (n, 1)),
        "location/micrograph_psize_A": np.full(n, 0.83, np.float32),
        "location/center_x_frac": rng.uniform(0.02, 0.98, n).astype(np.float32),
        "location/center_y_frac": rng.uniform(0.02, 0.98, n).astype(np.float32),
        "ctf/accel_kv": np.full(n, 300, np.float32),
        "ctf/df1_A": rng.uniform(1e4, 2e4, n).astype(np.float32),
        "ctf/df2_A": rng.uniform(1e4, 2e4, n).astype(np.float32),
        "ctf/shift_A": np.zeros((n, 2), np.float32),
        "ctf/tetra_A": np.zeros((n, 4), np.float32),
        "alignments3D/shift": rng.normal(0, 1, (n, 2)).astype(np.float32),
        "alignments3D/pose": rng.normal(0, 1, (n, 3)).astype(np.float32),
        "alignments3D/psize_A": np.full(n, 0.83 * 1.5, np.float32),
        "alignments3D/class": np.zeros(n, np.uint32),
        "pick_stats/ncc_score": rng.random(n, np.float32),
    }
    del stacks
    job = SimulatedJob(
        "J2", "homo_refine_new", [SimulatedOutput("particles", columns, own_file="extracted_particles.cs")]
    )
    writer.write(SimulatedJob(job.uid, job.job_type, job.outputs, [("J1", "imported_micrographs")]))
    write_project_files(project, "4.5", ["J1", "J2"], "benchmark")


if __name__ == "__main__":
    main()
