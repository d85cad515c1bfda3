"""Simulated micrographs are what they claim to be: at the pixel, in physics, and byte for byte the same again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cryoflow.errors import BadInput
from cryoflow.micrographs.boxes import cut_boxes
from cryoflow.micrographs.header import read_header
from cryoflow.micrographs.image import check_pixels, read_micrograph
from cryoflow.simulate import SimulatedDataset, load_dataset, simulate_dataset
from cryoflow.simulate.density import SPECIMENS, find_specimen

SHAPE_YX = (560, 880)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SimulatedDataset]:
    folder = tmp_path_factory.mktemp("simulated") / "a data set"
    return folder, simulate_dataset(folder, n_micrographs=4, shape_yx=SHAPE_YX, pixel_size_A=3.0, seed=5, workers=2)


def test_micrographs_are_float32_mrc_of_the_right_shape_and_pixel_size(made: tuple[Path, SimulatedDataset]) -> None:
    folder, dataset = made
    assert [m.path.relative_to(folder).as_posix() for m in dataset.micrographs] == [
        f"Micrographs/barrel_{n:04d}.mrc" for n in range(1, 5)
    ]
    for micrograph in dataset.micrographs:
        header = read_header(micrograph.path)
        assert (header.shape_yx, header.mode, header.pixel_size_A) == (SHAPE_YX, 2, 3.0)
        check_pixels(read_micrograph(micrograph.path), micrograph.path)


def test_counts_are_those_of_the_dose(made: tuple[Path, SimulatedDataset]) -> None:
    for micrograph in made[1].micrographs:
        electrons = float(np.median(read_micrograph(micrograph.path)))
        assert 0.75 * 40 * 9 < electrons < 40 * 9  # ice takes some


def test_particles_are_dark_at_their_centers_and_only_there(made: tuple[Path, SimulatedDataset]) -> None:
    """The frame: true centers on non-square micrographs are darker than what surrounds them, mirrored ones are not."""
    at_particles, at_mirrored = [], []
    for micrograph in made[1].micrographs:
        image = read_micrograph(micrograph.path)
        ny = micrograph.shape_yx[0]
        for xy, found in (
            (micrograph.true_xy_px, at_particles),
            (np.abs([[0, ny - 1]] - micrograph.true_xy_px * [[-1, 1]]), at_mirrored),
        ):
            boxes = cut_boxes(image, xy, 65)
            y, x = np.indices((65, 65)) - 32
            disc, ring = np.hypot(x, y) < 20, np.hypot(x, y) > 27
            found.extend(boxes[:, disc].mean(axis=1) - boxes[:, ring].mean(axis=1))
    assert len(at_particles) > 60
    assert np.mean(np.array(at_particles) < 0) > 0.97
    assert np.median(at_mirrored) > np.median(at_particles) / 4


def test_a_projection_is_centered_on_its_position_to_a_part_of_a_pixel(made: tuple[Path, SimulatedDataset]) -> None:
    """The mean of all boxes, cut with sub-pixel remainders averaged out, has its centroid on the center pixel."""
    total = np.zeros((65, 65))
    for micrograph in made[1].micrographs:
        boxes = cut_boxes(read_micrograph(micrograph.path), micrograph.true_xy_px, 65)
        total += (boxes - boxes.mean(axis=(1, 2), keepdims=True)).sum(axis=0)
    y, x = np.indices(total.shape) - 32
    ring = np.hypot(x, y)
    weight = np.where(ring < 27, total[(ring > 27) & (ring < 32)].mean() - total, 0)
    assert abs((weight * x).sum() / weight.sum()) < 0.8
    assert abs((weight * y).sum() / weight.sum()) < 0.8


def test_about_half_of_the_picks_are_right_and_few_particles_are_missed(made: tuple[Path, SimulatedDataset]) -> None:
    right = np.concatenate([m.pick_is_right for m in made[1].micrographs])
    assert 0.3 < right.mean() < 0.65
    assert right.sum() > 0.85 * sum(len(m.true_xy_px) for m in made[1].micrographs)


def test_a_pick_is_right_within_a_quarter_of_the_diameter_of_a_true_particle(
    made: tuple[Path, SimulatedDataset],
) -> None:
    for m in made[1].micrographs:
        distance = np.hypot(*(m.picks_xy_px[:, None] - m.true_xy_px[None]).transpose(2, 0, 1)).min(axis=1)
        np.testing.assert_array_equal(m.pick_is_right, distance <= 0.25 * 160 / 3 + 0.02)
        np.testing.assert_array_equal(m.pick_is_right, m.pick_class > 0)
        np.testing.assert_array_equal(m.pick_is_right, np.isfinite(m.pick_psi_deg))
        assert (np.diff(m.pick_scores) <= 0).all()


def test_picks_and_particles_lie_whole_in_the_image(made: tuple[Path, SimulatedDataset]) -> None:
    for m in made[1].micrographs:
        for xy in (m.picks_xy_px, m.true_xy_px):
            assert (xy >= 26).all()
            assert (xy <= np.array(SHAPE_YX[::-1]) - 1 - 26).all()


def test_true_particles_keep_their_distance(made: tuple[Path, SimulatedDataset]) -> None:
    for m in made[1].micrographs:
        between = np.hypot(*(m.true_xy_px[:, None] - m.true_xy_px[None]).transpose(2, 0, 1))
        np.fill_diagonal(between, np.inf)
        assert between.min() > 0.5 * 160 / 3


def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_workers(
    tmp_path: Path, made: tuple[Path, SimulatedDataset]
) -> None:
    _, dataset = made
    again = simulate_dataset(tmp_path, n_micrographs=2, shape_yx=SHAPE_YX, pixel_size_A=3.0, seed=5, workers=1)
    for old, new in zip(dataset.micrographs, again.micrographs, strict=False):
        assert old.path.read_bytes() == new.path.read_bytes()
        np.testing.assert_array_equal(old.picks_xy_px, new.picks_xy_px)
    other = simulate_dataset(tmp_path / "other", n_micrographs=1, shape_yx=SHAPE_YX, pixel_size_A=3.0, seed=6)
    assert other.micrographs[0].path.read_bytes() != dataset.micrographs[0].path.read_bytes()


def test_what_is_there_already_is_not_made_again(made: tuple[Path, SimulatedDataset]) -> None:
    folder, dataset = made
    before = [m.path.stat().st_mtime_ns for m in dataset.micrographs]
    again = simulate_dataset(folder, n_micrographs=4, shape_yx=SHAPE_YX, pixel_size_A=3.0, seed=5)
    assert [m.path.stat().st_mtime_ns for m in again.micrographs] == before


def test_the_truth_is_read_as_it_was_made(made: tuple[Path, SimulatedDataset]) -> None:
    folder, dataset = made
    loaded = load_dataset(folder)
    assert (loaded.name, loaded.diameter_A, loaded.seed) == ("barrel", 160.0, 5)
    for one, other in zip(dataset.micrographs, loaded.micrographs, strict=True):
        assert (one.path, one.shape_yx, one.defocus_u_A) == (other.path, other.shape_yx, other.defocus_u_A)
        for name in ("true_xy_px", "picks_xy_px", "pick_scores", "pick_is_right", "pick_psi_deg", "pick_class"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_progress_is_told_in_order(tmp_path: Path) -> None:
    seen: list[str] = []
    simulate_dataset(
        tmp_path,
        specimen="small",
        n_micrographs=3,
        shape_yx=(200, 300),
        pixel_size_A=4.0,
        on_micrograph=lambda m: seen.append(m.path.name),
    )
    assert seen == ["small_0001.mrc", "small_0002.mrc", "small_0003.mrc"]


def test_an_interrupt_ends_it_soon_and_leaves_no_truth(tmp_path: Path) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate_dataset(
            tmp_path,
            specimen="small",
            n_micrographs=40,
            shape_yx=(200, 300),
            pixel_size_A=4.0,
            workers=1,
            on_micrograph=interrupt,
        )
    assert len(list((tmp_path / "Micrographs").iterdir())) < 20
    assert not (tmp_path / "truth.json").exists()


@pytest.mark.parametrize("change", ["missing", "not json", "a list", "no micrographs", "wrong shape"])
def test_a_bad_truth_file_is_one_clear_error(tmp_path: Path, change: str, made: tuple[Path, SimulatedDataset]) -> None:
    document = json.loads((made[0] / "truth.json").read_text())
    if change == "no micrographs":
        del document["micrographs"]
    elif change == "wrong shape":
        document["micrographs"][0]["shape_yx"] = [1, 2, 3]
    texts = {"not json": "{", "a list": "[]"}
    if change != "missing":
        (tmp_path / "truth.json").write_text(texts.get(change, json.dumps(document)))
    with pytest.raises(BadInput, match=r"truth\.json"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("arguments", [{"specimen": "virus"}, {"n_micrographs": 0}, {"shape_yx": (20, 3000)}])
def test_senseless_requests_are_refused(tmp_path: Path, arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"no specimen|hold no particle"):
        simulate_dataset(tmp_path, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SPECIMENS)
def test_specimens_are_centered_and_as_large_as_they_say(name: str) -> None:
    subject = find_specimen(name)
    radius = np.linalg.norm(subject.points, axis=1)
    assert np.abs(subject.points.mean(axis=0)).max() < 0.01
    assert 0.75 < 2 * np.quantile(radius, 0.99) / subject.diameter_A < 1.2


def test_the_barrel_has_the_symmetry_it_claims_and_no_higher() -> None:
    points = find_specimen("barrel").points

    def density(xyz: np.ndarray) -> np.ndarray:
        return np.histogramdd(xyz, bins=24, range=[(-96, 96)] * 3)[0].ravel()

    def turned(degrees: float) -> np.ndarray:
        angle = np.radians(degrees)
        return points @ np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]])

    itself = density(points)
    assert np.corrcoef(itself, density(turned(360 / 7)))[0, 1] > 0.99
    assert np.corrcoef(itself, density(points * [1, -1, -1]))[0, 1] > 0.99
    assert np.corrcoef(itself, density(turned(360 / 14)))[0, 1] < 0.9
    assert np.corrcoef(itself, density(points * [1, 1, -1]))[0, 1] < 0.9  # it has a hand


def test_another_data_set_is_not_overwritten(made: tuple[Path, SimulatedDataset]) -> None:
    folder, dataset = made
    before = dataset.micrographs[0].path.read_bytes()
    with pytest.raises(BadInput, match=r"another simulated data set \(seed 5\)"):
        simulate_dataset(folder, n_micrographs=4, shape_yx=SHAPE_YX, pixel_size_A=3.0, seed=6)
    assert dataset.micrographs[0].path.read_bytes() == before
