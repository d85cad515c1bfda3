"""One micrograph under several names is one micrograph, and a particle on it is one particle."""

import numpy as np
import pytest
from cryosparc_projects import write_cryosparc_project
from relion_projects import write_relion_project

from cryoflow.formats.cs import read_cs, write_cs
from cryoflow.formats.star import read_blocks, write_star
from cryoflow.ingest.orientation_check import check_entry
from cryoflow.picks import Kind
from cryoflow.projects import read_job
from cryoflow.projects.crawl import crawl, jobs_of


def read(folder):
    (job,) = (job for job in jobs_of(crawl(folder).projects).jobs if job.kind is Kind.EXTRACT)
    (pickset,) = read_job(job)
    return pickset


def double_in_cryosparc(folder):
    """Every particle twice, the second time on the micrograph's other name."""
    for path in sorted((folder / "J5").glob("*.cs")):
        table = read_cs(path)
        twice = {name: np.concatenate([values, values]) for name, values in table.items()}
        n = len(table["uid"])
        twice["uid"][n:] += 1
        if "location/micrograph_path" in table:
            other = [b"J99/imported/" + p.rpartition(b"/")[2] for p in table["location/micrograph_path"].tolist()]
            longest = max(map(len, [*other, *table["location/micrograph_path"].tolist()]))
            twice["location/micrograph_path"] = twice["location/micrograph_path"].astype(f"S{longest}")
            twice["location/micrograph_path"][n:] = other
        write_cs(path, twice)


def double_in_relion(folder):
    path = next((folder / "Extract").glob("job*/particles.star"))
    blocks = read_blocks(path)
    table = blocks["particles"]
    other = table.assign(rlnMicrographName=["J99/imported/" + n.rpartition("/")[2] for n in table["rlnMicrographName"]])
    optics = blocks["optics"]
    write_star(
        path,
        {
            "optics": {name: optics[name].tolist() for name in optics},
            "particles": {name: [*table[name], *other[name]] for name in table},
        },
    )


@pytest.mark.parametrize("program", ["cryosparc", "relion"])
@pytest.mark.parametrize("kind", ["links", "copies"])
def test_a_file_of_two_names_counts_once_and_a_copy_is_another_file(tmp_path, blots, program, kind):
    write, double = {
        "cryosparc": (write_cryosparc_project, double_in_cryosparc),
        "relion": (write_relion_project, double_in_relion),
    }[program]
    folder = write(tmp_path / "P", blots)
    before = read(folder)
    files = [m.path for m in blots.micrographs]
    named = {p.rpartition("/")[2] for p in before.micrographs["name"]}
    (folder / "J99" / "imported").mkdir(parents=True)
    for file in files:
        (name,) = (name for name in named if name.endswith(file.name))
        place = folder / "J99" / "imported" / name
        if kind == "links":
            place.symlink_to(file)
        else:
            place.write_bytes(file.read_bytes())
    double(folder)
    after = read(folder)
    if kind == "copies":
        assert (len(after.micrographs), len(after)) == (2 * len(before.micrographs), 2 * len(before))
        return
    assert after.micrographs["path"].map(lambda path: path.rpartition("/")[2]).tolist() == sorted(named)
    np.testing.assert_allclose(after.centers_xy_px, before.centers_xy_px, atol=1e-3)
    assert after.counts["duplicate"] == before.counts.get("duplicate", 0) + len(before)
    assert any("under two names" in note for note in after.notes)
    assert check_entry(after)[0].verdict == "confirmed"
