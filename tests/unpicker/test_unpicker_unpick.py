from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from unpicker_rings import DIAMETER_A, as_pickset

from cryoflow.errors import BadInput
from cryoflow.micrographs.image import read_micrograph, write_mrc
from cryoflow.preparation.calibration import Goal
from cryoflow.unpicker import unpick_shards
from cryoflow.unpicker.decision import DOUBTFUL
from cryoflow.unpicker.evaluate import coverage_warnings, evaluate, measure
from cryoflow.unpicker.labeled import LabeledSet
from cryoflow.unpicker.scoring import ScoredMicrograph, score
from cryoflow.unpicker.star_folder import read_ctfs, read_star_folder
from cryoflow.unpicker.star_lines import StarRows
from cryoflow.unpicker.suggest import not_cleaned, suggest
from cryoflow.unpicker.unpick import doubtful_picks, unpick
from cryoflow.unpicker.unpick_star import unpick_star_folder

HEAD = "\ndata_\n\nloop_ \n_rlnCoordinateX #1 \n_rlnCoordinateY #2 \n"


def star_folder(rings, folder: Path) -> Path:
    """RELION's files beside links to the images."""
    folder.mkdir()
    for m in rings.micrographs:
        (folder / f"{m.name}.mrc").symlink_to(m.path)
        rows = [f"{x:12.6f} {y:12.6f} " for x, y in m.centers_xy_px]
        (folder / f"{m.name}_autopick.star").write_text(HEAD + "\n".join(rows) + "\n \n")
    return folder


def test_kept_rows_are_written_as_they_were_and_one_line_a_micrograph_is_said(rings, trained, tmp_path):
    folder = star_folder(rings, tmp_path / "in")
    lines = []
    report = unpick_star_folder(
        trained, folder, tmp_path / "out", scored_suffix="_autopick_scored", on_scored=lambda j: lines.append(str(j))
    )
    assert not report.failed
    assert len(lines) == len(rings.micrographs)
    for scored, line in zip(report.scored, lines, strict=True):
        name = scored.micrograph.name
        before = (folder / f"{name}_autopick.star").read_text()
        after = (tmp_path / "out" / f"{name}_autopick_unpick.star").read_text()
        kept = [
            row for row, k in zip(StarRows.read(folder / f"{name}_autopick.star").rows, scored.kept, strict=True) if k
        ]
        assert after == HEAD + "\n".join(kept) + "\n \n"
        assert set(after.splitlines()) <= set(before.splitlines())
        n, total = int(scored.kept.sum()), len(scored.kept)
        assert line == f"{name}: kept {n}/{total} ({100 * n / total:.1f} %)"
        table = StarRows.read(tmp_path / "out" / f"{name}_autopick_scored.star")
        assert len(table) == total
        fom = [float(w) for w in table.words(table.columns.index("rlnAutopickFigureOfMerit"))]
        np.testing.assert_allclose(fom, scored.probabilities, atol=1e-6)
        assert np.array_equal(np.array(fom) >= report.decisions[0].threshold, scored.kept)
    right = np.concatenate([m.labels for m in rings.micrographs]) == 1
    kept = np.concatenate([j.kept for j in report.scored])
    assert (kept == right).mean() > 0.85


def test_what_cannot_be_judged_is_told_and_the_rest_goes_on(rings, trained, tmp_path):
    folder = star_folder(rings, tmp_path / "in")
    (folder / "mic_0.mrc").unlink()
    (folder / "mic_1.mrc").unlink()
    (folder / "mic_1.mrc").write_bytes(b"not an image")
    (folder / "mic_2_autopick.star").write_text("data_\n")
    (folder / "mic_3_autopick.star").write_text(HEAD + "9999.0 1.0\n")
    report = unpick_star_folder(trained, folder, tmp_path / "out")
    told = " ".join(map(str, report.failed))
    assert len(report.failed) == 4
    for word in ("mic_0.mrc", "mic_1.mrc", "mic_2_autopick.star", "outside"):
        assert word in told
    assert len(report.scored) == len(rings.micrographs) - 4
    assert len(list((tmp_path / "out").iterdir())) == len(rings.micrographs) - 4


def test_picks_are_never_written_over_those_they_come_from(rings, trained, tmp_path):
    folder = star_folder(rings, tmp_path / "in")
    before = {p.name: p.read_bytes() for p in folder.glob("*.star")}
    for suffixes in ({"unpick_suffix": "_autopick"}, {"scored_suffix": "_autopick.star"}):
        with pytest.raises(BadInput, match="over the files that it comes from"):
            unpick_star_folder(trained, folder, folder, **suffixes)
    with pytest.raises(BadInput, match="over itself"):
        unpick_star_folder(trained, folder, tmp_path / "out", unpick_suffix="_a", scored_suffix="_a.star")
    assert {p.name: p.read_bytes() for p in folder.glob("*.star")} == before
    assert not (tmp_path / "out").exists()


def test_the_pixel_size_may_be_given_and_must_fit(rings, trained, tmp_path):
    folder = star_folder(rings, tmp_path / "in")
    report = unpick_star_folder(trained, folder, tmp_path / "out", pixel_size_A=4.0)
    assert not report.scored
    assert "8 A a pixel, but 4 was given" in str(report.failed[0])


def test_an_entry_keeps_its_right_picks_with_score_and_uid(rings, trained):
    picks = as_pickset(rings)
    kept, report = unpick(trained, picks)
    assert kept.provenance.entry_name == "Unpicked_job012"
    assert kept.provenance.output_group == "AutoPick_job012"
    assert kept.counts["removed"] == len(picks) - len(kept) > 0
    assert "label" not in kept.picks
    assert (kept.picks["score"] >= report.decisions[0].threshold).all()
    expected = np.concatenate([j.kept for j in report.scored])
    np.testing.assert_array_equal(kept.picks["uid"], picks.picks["uid"][expected])
    assert len(kept.micrographs) == len(picks.micrographs)
    everything, _ = unpick(trained, picks, goal=Goal(threshold=0.0))
    assert len(everything) == len(picks)


def test_picks_of_a_missing_micrograph_are_counted_as_not_judged(rings, trained):
    picks = as_pickset(rings)
    table = picks.micrographs.copy()
    table.loc[0, "path"] = None
    table.loc[1, "path"] = "/nowhere/mic_1.mrc"
    kept, report = unpick(trained, replace(picks, micrographs=table))
    lost = len(rings.micrographs[0].labels) + len(rings.micrographs[1].labels)
    assert kept.counts["not_scored"] == lost
    assert len(report.failed) == 1
    assert any("mic_0" in note for note in kept.notes)
    assert any("mic_1" in note for note in kept.notes)
    assert set(kept.picks["micrograph"]) <= set(range(2, len(table)))


def test_training_sets_come_from_labeled_entries(rings):
    labeled = LabeledSet.from_picks(as_pickset(rings))
    assert [m.name for m in labeled.micrographs] == [m.name for m in rings.micrographs]
    for ours, theirs in zip(labeled.micrographs, rings.micrographs, strict=True):
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        np.testing.assert_array_equal(ours.centers_xy_px, theirs.centers_xy_px)
        assert ours.defocus_A == theirs.defocus_A
    without = as_pickset(rings)
    with pytest.raises(BadInput, match="have no labels"):
        LabeledSet.from_picks(replace(without, picks=without.picks.drop(columns="label")))
    with pytest.raises(BadInput, match="diameter"):
        LabeledSet.from_picks(as_pickset(rings, diameter_A=None))


def test_unpicking_a_folder_of_star_files_goes_on_where_it_was_stopped(rings, trained, tmp_path, monkeypatch):
    folder, output = star_folder(rings, tmp_path / "in"), tmp_path / "out"
    scored, real = [], unpick_shards.score

    def until_killed(bundle, micrographs, **options):
        for m in micrographs:
            if len(scored) == 5:
                raise KeyboardInterrupt
            scored.append(m.name)
        return real(bundle, micrographs, **options)

    monkeypatch.setattr(unpick_shards, "score", until_killed)
    monkeypatch.setattr("cryoflow.unpicker.unpick_star.N_A_SHARD", 2)
    with pytest.raises(KeyboardInterrupt):
        unpick_star_folder(trained, folder, output)
    assert not list(output.glob("*.star"))
    scored.clear()
    steps = []

    def counted(bundle, micrographs, **options):
        scored.extend(m.name for m in micrographs)
        return real(bundle, micrographs, **options)

    monkeypatch.setattr(unpick_shards, "score", counted)
    report = unpick_star_folder(trained, folder, output, on_progress=lambda *at: steps.append(at))
    assert steps[0] == (4, 8)
    assert scored == ["mic_4", "mic_5", "mic_6", "mic_7"]
    assert len(report.scored) == len(list(output.glob("*_unpick.star"))) == 8
    assert sorted(p.name for p in output.iterdir()) == sorted(p.name for p in output.glob("*.star"))  # work is gone


@pytest.mark.parametrize(
    ("goal", "kept"),
    [(Goal(keep=10), 10), (Goal(threshold=0.0), None), (Goal(keep=10**6), None)],
)
def test_a_number_of_picks_or_a_threshold_is_taken_as_asked(rings, trained, goal, kept):
    picks = as_pickset(rings)
    clean, report = unpick(trained, picks, goal=goal)
    scores = np.sort(np.concatenate([j.probabilities for j in report.scored]))[::-1]
    expected = int((scores >= scores[kept - 1]).sum()) if kept else len(picks)  # picks of one probability stay together
    assert len(clean) == report.n_kept == expected
    if goal.keep == 10**6:
        assert not report.decisions[0].reached


def test_a_wanted_precision_and_a_wanted_recall_are_reached(rings, trained):
    picks = as_pickset(rings)
    for goal in (Goal(precision=0.99), Goal(recall=0.99)):
        kept, report = unpick(trained, picks, goal=goal)
        assert 0 < len(kept) < len(picks)
        decision = report.decisions[0]
        assert (decision.precision if goal.precision else decision.recall) >= 0.99


def test_doubtful_picks_are_counted_and_given_on_demand(rings, trained, tmp_path):
    picks = as_pickset(rings)
    kept, report = unpick(trained, picks)
    low, high = DOUBTFUL
    expected = sum(int(((j.probabilities >= low) & (j.probabilities < high)).sum()) for j in report.scored)
    doubtful = doubtful_picks(trained, picks, report)
    assert kept.counts["doubtful"] == report.n_doubtful == len(doubtful) == expected
    assert doubtful.provenance.entry_name == "Unpicked_job012_doubtful"
    assert doubtful.picks["score"].between(low, high).all()
    assert f"{expected} picks are doubtful, kept or not" in " ".join(kept.notes)
    folder = star_folder(rings, tmp_path / "in")
    unpick_star_folder(trained, folder, tmp_path / "out", doubtful_suffix="_doubtful")
    assert sum(len(StarRows.read(p)) for p in (tmp_path / "out").glob("*_doubtful.star") if has_rows(p)) == expected


def has_rows(path):
    return any(line.strip() and line.strip()[0].isdigit() for line in path.read_text().splitlines())


def test_results_come_in_order_whatever_the_number_of_threads(rings, trained):
    one = [j.micrograph.name for j in score(trained, rings.micrographs, workers=1)]
    many = [j.micrograph.name for j in score(trained, rings.micrographs, workers=4)]
    assert one == many == [m.name for m in rings.micrographs]


def test_evaluation_refuses_micrographs_that_were_learned_from_even_under_another_name(rings, trained, tmp_path):
    learned = {r.name for r in trained.manifest if r.part == "train"}
    mine = [m for m in rings.micrographs if m.name in learned]
    with pytest.raises(BadInput, match="were used in its training"):
        evaluate(trained, LabeledSet(tuple(mine)))
    copies = []
    for m in mine:
        path = tmp_path / f"renamed_{m.path.name}"
        path.write_bytes(m.path.read_bytes())
        copies.append(replace(m, name=path.stem, path=path, data_set="copy"))
    with pytest.raises(BadInput, match="were used in its training"):
        evaluate(trained, LabeledSet(tuple(copies)))


def judged_with(rings, probabilities_of) -> list[ScoredMicrograph]:
    found = []
    for m in rings.micrographs:
        p = probabilities_of(m)
        found.append(ScoredMicrograph(m, p, p >= 0.5))
    return found


def test_measures_and_tables_of_known_scores(rings, trained):
    at_half = replace(trained, threshold=0.5, folder=trained.folder)
    perfect = measure(judged_with(rings, lambda m: np.where(m.labels == 1, 0.99, 0.01)), at_half)
    assert perfect.error.value == 0
    assert perfect.roc_auc.value == perfect.average_precision.value == 1
    assert perfect.calibration_error.value == pytest.approx(0.01)
    assert [r.name for r in perfect.micrographs] == [m.name for m in rings.micrographs]
    assert sum(r.n for r in perfect.defocus) == perfect.n_picks == sum(len(m.labels) for m in rings.micrographs)
    assert perfect.defocus[0].name == "1.0 to 1.5 um"

    def half_wrong(m):
        p = np.where(m.labels == 1, 0.9, 0.1)
        p[: len(p) // 2] = 1 - p[: len(p) // 2]
        return p

    bad = measure(judged_with(rings, half_wrong), at_half)
    assert bad.error.value == pytest.approx(0.5, abs=0.02)
    only_right = LabeledSet(tuple(replace(m, labels=np.ones_like(m.labels)) for m in rings.micrographs))
    scored = judged_with(only_right, lambda m: np.full(len(m.labels), 0.9))
    with pytest.raises(BadInput, match="all of one kind"):
        measure(scored, at_half)


def test_a_defocus_that_the_labels_do_not_cover_is_warned_about(rings, trained):
    far = replace(rings.micrographs[0].ctf, defocus_u_A=40_000, defocus_v_A=40_000)
    beyond = [replace(m, ctf=far) for m in rings.micrographs[:2]]
    inside = [m for m in rings.micrographs if m.name in {r.name for r in trained.manifest if r.part == "train"}]
    assert coverage_warnings(trained, inside) == []
    (warning,) = coverage_warnings(trained, [*inside, *beyond])
    assert warning.startswith(f"2 of {len(inside) + 2} micrographs have a defocus outside")


def test_suggestions_are_doubtful_micrographs_that_nobody_has_cleaned(rings, trained):
    new = tuple(replace(m, name=f"new_{m.name}") for m in rings.micrographs[:3])
    everything = LabeledSet(rings.micrographs + new)

    def scores(m):
        return np.full(len(m.labels), 0.5 if m in (new[1], *rings.micrographs) else 0.99)

    found = suggest(trained, judged_with(everything, scores), number=5)
    assert found[0].name == new[1].name
    assert {s.name for s in found} == {m.name for m in new}
    n = len(new[1].labels)
    assert (found[0].n_doubtful, found[0].n_errors) == (n, pytest.approx(n / 2, rel=0.01))
    assert found[0].why.startswith(f"{n} of its {n} picks are doubtful, and about {n / 2:.0f} would be decided wrongly")


def test_what_a_refinement_dropped_may_still_be_suggested_but_not_what_was_cleaned_under_another_name(rings, trained):
    test = next(r for r in trained.manifest if r.part == "test")
    dropped = replace(test, n_negative=0, n_unlabeled=test.n_negative)
    of_a_refinement = replace(trained, manifest=tuple(dropped if r is test else r for r in trained.manifest))
    assert not_cleaned(trained, rings.micrographs) == []
    assert [m.name for m in not_cleaned(of_a_refinement, rings.micrographs)] == [test.name]
    elsewhere = [replace(m, data_set="copy", name=f"{m.name}_copy") for m in rings.micrographs]
    assert [m.name for m in not_cleaned(of_a_refinement, elsewhere)] == [f"{test.name}_copy"]


def test_ctfs_of_old_and_new_relion_tables_are_read(tmp_path):
    old = (
        "data_\n\nloop_\n_rlnMicrographName #1\n_rlnDefocusU #2\n_rlnDefocusV #3\n_rlnDefocusAngle #4\n_rlnVoltage #5\n"
    )
    (tmp_path / "old.star").write_text(old + "a/x.mrc 10000 12000 30 200\na/y.mrc nan 1 1 200\n")
    ctf = read_ctfs(tmp_path / "old.star")
    assert set(ctf) == {"x"}
    assert (ctf["x"].defocus_u_A, ctf["x"].defocus_v_A, ctf["x"].voltage_kV) == (10_000, 12_000, 200)
    optics = (
        "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnVoltage #2\n_rlnSphericalAberration #3\n1 300 2.7\n2 200 1.4\n\n"
    )
    new = "data_micrographs\n\nloop_\n_rlnMicrographName #1\n_rlnOpticsGroup #2\n_rlnDefocusU #3\n_rlnDefocusV #4\n"
    (tmp_path / "new.star").write_text(optics + new + "x.mrc 2 10000 11000\n")
    assert read_ctfs(tmp_path / "new.star")["x"].voltage_kV == 200
    assert read_ctfs(tmp_path / "new.star")["x"].cs_mm == 1.4
    (tmp_path / "none.star").write_text("data_\n\nloop_\n_rlnCoordinateX #1\n1.0\n")
    with pytest.raises(BadInput, match="rlnDefocusU"):
        read_ctfs(tmp_path / "none.star")


def test_a_star_folder_is_read_with_its_ctf(rings, tmp_path, caplog):
    folder = star_folder(rings, tmp_path / "in")
    rows = "".join(f"m/{m.name}.mrc {m.defocus_A} {m.defocus_A}\n" for m in rings.micrographs)
    (tmp_path / "ctf.star").write_text(
        f"data_\n\nloop_\n_rlnMicrographName #1\n_rlnDefocusU #2\n_rlnDefocusV #3\n{rows}"
    )
    found, bad = read_star_folder(folder, "_autopick", diameter_A=DIAMETER_A, ctf_star=tmp_path / "ctf.star")
    assert not bad
    assert [p.micrograph.defocus_A for p in found] == [m.defocus_A for m in rings.micrographs]
    assert all(p.micrograph.pixel_size_A == 8.0 for p in found)
    assert not caplog.messages


def test_what_a_folder_does_not_agree_on_is_counted_and_told(rings, tmp_path, caplog):
    folder = star_folder(rings, tmp_path / "in")
    odd = folder / f"{rings.micrographs[2].name}.mrc"
    odd.unlink()
    write_mrc(odd, read_micrograph(rings.micrographs[2].path), 4.0)
    (tmp_path / "ctf.star").write_text("data_\n\nloop_\n_rlnMicrographName #1\n_rlnDefocusU #2\nmic_0.mrc 10000\n")
    found, bad = read_star_folder(folder, "_autopick", diameter_A=DIAMETER_A, ctf_star=tmp_path / "ctf.star")
    assert (len(found), bad) == (8, [])
    pixel_sizes, ctfs = caplog.messages
    assert "most headers say 8 A a pixel, 1 of 8 say otherwise (mic_2.mrc 4, ...)" in pixel_sizes
    assert "has no defocus of 7 of 8 micrographs (mic_1, ...)" in ctfs
    caplog.clear()
    read_star_folder(folder, "_autopick", diameter_A=DIAMETER_A, pixel_size_A=8.0)
    assert not caplog.messages


def test_a_real_relion_3_micrograph_is_unpicked_with_its_rows_as_they_were(realdata, trained, tmp_path, caplog):
    folder = realdata / "relion3_micrograph"
    lines = []
    report = unpick_star_folder(
        trained, folder, tmp_path, goal=Goal(threshold=0.5), on_scored=lambda j: lines.append(str(j))
    )
    assert not report.failed
    assert lines[0].startswith("Ucsf_stack_1142_DW: kept ")
    assert lines[0].split("/")[1].startswith("45 (")
    before = (folder / "Ucsf_stack_1142_DW_autopick.star").read_bytes().split(b"\n")
    after = (tmp_path / "Ucsf_stack_1142_DW_autopick_unpick.star").read_bytes().split(b"\n")
    assert len(after) == len(before) - 45 + report.n_kept
    assert [line for line in before if line in set(after)] == after
    assert "exactly 1 A a pixel" in caplog.text  # its header does not know better
