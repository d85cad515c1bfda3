"""Picks that were found wrong: never particles, and of weight for Warp."""

import numpy as np
import pytest
import tifffile

from cryoflow.errors import BadInput
from cryoflow.pickers.programs.warp.slices import boxnet_slices
from cryoflow.pickers.training_sets import manifest
from cryoflow.pickers.training_sets.build import build_training_set
from cryoflow.pickers.training_sets.export import export
from cryoflow.picks import PickSet


def labeled(entry: PickSet, labels: dict[int, int], *, only: tuple[int, ...] = (-1, 0, 1)) -> PickSet:
    """The picks of an entry, `labels[i]` for each pick i % 3, as far as their label is in `only`."""
    label = np.array([labels[i % 3] for i in range(len(entry))], np.int8)
    picks = entry.picks.assign(label=label)[np.isin(label, only)].reset_index(drop=True)
    return PickSet.build(entry.provenance, entry.micrographs, picks, diameter_A=entry.diameter_A)


ALL = {0: 1, 1: -1, 2: 0}


def test_only_right_picks_are_particles(make_entry):
    entry = make_entry()
    training = build_training_set([labeled(entry, ALL)])
    n = len(entry)
    assert len(training.picks) == len(range(0, n, 3))
    assert (training.not_positive["label"] == -1).sum() == len(range(1, n, 3))
    assert (training.not_positive["label"] == 0).sum() == len(range(2, n, 3))
    assert training.micrographs["n_picks"].sum() == len(training.picks)


@pytest.mark.parametrize("excluded_first", [True, False])
def test_an_entry_of_excluded_picks_gives_them_to_the_entry_of_right_ones(make_entry, excluded_first):
    right = labeled(make_entry("P1", "J51"), ALL, only=(1,))
    wrong = labeled(make_entry("P1", "J30"), ALL, only=(-1,))
    training = build_training_set([wrong, right] if excluded_first else [right, wrong])
    assert len(training.micrographs) == 6
    (note,) = training.notes
    assert note.startswith("The picks of P1/Homo_J30 are negative or unlabeled")
    assert set(training.micrographs["entry"]) == {"P1/Homo_J51"}
    assert len(training.picks) == len(right)
    assert training.not_positive[["micrograph", "x_px", "y_px"]].equals(wrong.picks[["micrograph", "x_px", "y_px"]])


def test_wrong_picks_alone_are_nothing_to_train_from(make_entry):
    with pytest.raises(BadInput, match="no picks"):
        build_training_set([labeled(make_entry(), ALL, only=(-1,))])


def test_warp_weighs_wrong_picks_and_passes_over_those_nobody_judged(make_entry, tmp_path):
    entry = labeled(make_entry(n=3, n_empty=0), ALL)
    result = export("warp", [entry], tmp_path / "out")
    assert {s.name: s.value for s in result.settings}["picks negative"] == str((entry.picks["label"] == -1).sum())
    for row in manifest.read_manifest(result.folder).itertuples():
        (path,) = result.folder.glob(f"*/{row.stem}.tif")
        _, labels, importance = tifffile.imread(path)
        index = entry.micrographs["name"].tolist().index(row.name)
        picks = entry.picks[entry.picks["micrograph"] == index]
        xy = np.rint((picks[["x_px", "y_px"]].to_numpy() + 0.5) / 2 - 0.5).astype(int)  # 4 A to 8 A
        at = {label: tuple(xy[(picks["label"] == label).to_numpy()].T[::-1]) for label in (1, -1, 0)}
        assert (labels[at[1]] == 1).all()
        assert (labels[at[-1]] == 0).all()
        assert (importance[at[1]] == 1).all()
        assert (importance[at[-1]] == 4).all()
        assert (importance[at[0]] == 0).all()
        disc = (importance == 4).sum() / (picks["label"] == -1).sum()
        assert disc == pytest.approx(np.pi * 6.25**2, rel=0.1)  # 100 A across are 6.25 px of radius at 8 A


def test_importance_is_one_where_no_pick_is_labeled():
    rng = np.random.default_rng(0)
    image = rng.normal(size=(64, 96)).astype(np.float32)
    assert (boxnet_slices(image, 4.0, np.array([[20.0, 30.0]]), 60.0)[2] == 1).all()


def test_another_label_is_another_export(make_entry, tmp_path):
    entry = make_entry()
    export("warp", [labeled(entry, ALL)], tmp_path / "out")
    assert export("warp", [labeled(entry, ALL)], tmp_path / "out").reused
    with pytest.raises(BadInput, match="another export"):
        export("warp", [labeled(entry, ALL | {2: -1})], tmp_path / "out")
