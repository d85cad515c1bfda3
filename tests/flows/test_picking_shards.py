"""A picker's prediction in shards: the same picks as in one go, none twice, and one that fails takes no other along."""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from prefect import flow

from cryoflow.cluster.dispatch import Done, Work
from cryoflow.database import Database
from cryoflow.errors import BadInput
from cryoflow.ingest import ingest
from cryoflow.parameters import fields_of
from cryoflow.pickers.parameters import TrainAndPickParameters
from flows import picking_shards
from flows.picking import train_picker_and_pick
from flows.picking_shards import PickShardParameters, pick, pick_in_shards, ranges_to_pick, train_picker

sys.path.insert(0, str(Path(__file__).parents[1] / "pickers"))
from test_running import TOPAZ

# as the stand-in, but it notes each micrograph that it picks, and fails on the one that the file `broken` names
NOTING = TOPAZ.replace(
    'elif what == "extract":\n',
    'elif what == "extract":\n'
    "    here = pathlib.Path(__file__).parent\n"
    '    names = [pathlib.Path(name).stem for name in args if name.startswith("proc/")]\n'
    '    with (here / "picked").open("a") as file:\n'
    '        file.write("".join(name + "\\n" for name in names))\n'
    '    broken = (here / "broken").read_text() if (here / "broken").exists() else "none"\n'
    "    if any(name.endswith(broken) for name in names):\n"
    '        sys.exit("a damaged micrograph")\n',
)


class Site:
    def __init__(self, project: Path, folder: Path) -> None:
        self.folder = folder
        self.database = Database(folder / "database")
        ingest(project.parent, self.database)
        programs = folder / "programs"
        programs.mkdir()
        (programs / "topaz").write_text(NOTING)
        (programs / "topaz").chmod(stat.S_IRWXU)
        self.programs = programs
        self.entry = next(e.name for e in self.database.entries() if e.kind.value == "NonUniform")
        self.micrographs = sorted(Path(p) for p in self.database.load(self.entry).micrographs["path"])

    def parameters(self, output: str = "run", **more: object) -> PickShardParameters:
        known = {"to_pick": (self.entry,), "diameter_A": 160.0, "gpus": 0, "shard_micrographs": 4}
        return PickShardParameters.from_values(
            {
                "picker": "topaz", "database": self.database.root, "output": self.folder / output,
                "programs": self.programs, **known, **more,
            }
        )  # fmt: skip

    def picked(self) -> list[str]:
        file = self.programs / "picked"
        names = file.read_text().split() if file.exists() else []
        file.unlink(missing_ok=True)
        return sorted(names)


@pytest.fixture
def site(project: Path, tmp_path: Path) -> Site:
    return Site(project, tmp_path)


def picking_of(p: PickShardParameters) -> TrainAndPickParameters:
    return TrainAndPickParameters(**{f.name: getattr(p, f.name) for f in fields_of(TrainAndPickParameters)})


def test_shards_are_gathered_to_what_one_go_gives_and_each_micrograph_is_picked_once(site: Site) -> None:
    (name,) = train_picker_and_pick(picking_of(site.parameters("in one go")))
    whole = site.database.load(name)
    site.picked()

    p = site.parameters("in shards")
    train_picker(picking_of(p))
    assert list(ranges_to_pick(p)) == [(site.entry, 0, 4), (site.entry, 4, 6)]
    assert pick(replace(p, entry=site.entry, first=0, last=4)) == ()
    assert len(site.picked()) == 4
    assert pick(p) == (name,)
    assert len(site.picked()) == 2  # what no shard had picked yet
    shards = site.database.load(name)
    assert shards.picks.equals(whole.picks)
    assert list(shards.micrographs["name"]) == list(whole.micrographs["name"])
    assert shards.diameter_A == whole.diameter_A
    assert pick(p) == (name,)
    assert site.picked() == []
    assert pick(replace(p, threshold=-5.0)) == (name,)  # other settings are other picks
    assert len(site.database.load(name)) == 2 * len(whole)


def test_a_part_that_fails_takes_no_other_along_and_alone_is_tried_again(site: Site) -> None:
    p = site.parameters(shard_micrographs=2)
    train_picker(picking_of(p))
    broken = site.micrographs[2].stem
    (site.programs / "broken").write_text(broken)
    with pytest.raises(BadInput, match=r"1 of 3 shards: could not be picked. .* 2-4: .*a damaged micrograph"):
        pick(p)
    name = f"{site.entry.split('/')[0]}/AutoPick_topaz"
    assert len(site.database.load(name).micrographs) == 4
    assert len(site.picked()) == 6
    (site.programs / "broken").unlink()
    assert pick(p) == (name,)
    assert len(site.picked()) == 2
    assert len(site.database.load(name).micrographs) == 6


def test_files_that_no_entry_has_are_picked_in_shards_too(site: Site) -> None:
    p = site.parameters(to_pick=(), micrographs=(site.micrographs[0].parent,))
    train_picker(picking_of(p))
    pick(replace(p, entry="", first=4, last=6))
    assert len(site.picked()) == 2
    (name,) = pick(p)
    assert len(site.picked()) == 4
    assert len(site.database.load(name).micrographs) == 6


def test_micrographs_of_two_entries_are_gathered_into_one_entry_without_repetition(site: Site) -> None:
    other = next(e.name for e in site.database.entries() if e.kind.value == "AutoPick")
    p = site.parameters(to_pick=(site.entry, other))
    train_picker(picking_of(p))
    (name,) = pick(p)
    assert len(site.database.load(name).micrographs) == 6
    assert len(site.database.load(name)) == 6


def test_without_a_trained_picker_the_stage_says_so(site: Site) -> None:
    with pytest.raises(BadInput, match="holds no trained picker"):
        pick(replace(site.parameters(), entry=site.entry, last=2))


def test_where_stages_are_jobs_training_is_one_and_picking_some(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stage runs here as its job would: from its parameters as JSON."""
    jobs: list[str] = []

    def run_shards(stage: str, works: Sequence[Work], *, on_done: Callable[[Done], None]) -> tuple[Done, ...]:
        assert stage == "pick"
        for work in works:
            jobs.append(work.name)
            pick(PickShardParameters.from_values(work.values))
        return tuple(Done(work.name, "Completed", "", 1, "id") for work in works)

    def run_stage(stage: object, parameters: TrainAndPickParameters) -> None:
        jobs.append(str(stage.name))  # type: ignore[attr-defined]
        assert (parameters.to_pick, parameters.entries) == ((site.entry,), (site.entry,))  # whatever is added meanwhile
        stage(type(parameters).from_values(parameters.to_json()))  # type: ignore[operator]

    monkeypatch.setattr("flows.picking.dispatches", lambda: True)
    monkeypatch.setattr("flows.shards.run_shards", run_shards)
    monkeypatch.setattr("flows.shards.dispatches", lambda: True)
    monkeypatch.setattr(picking_shards, "run_stage", run_stage)
    (name,) = train_picker_and_pick(picking_of(site.parameters()))
    assert jobs == ["train picker", f"topaz {site.entry} 0-4", f"topaz {site.entry} 4-6", "pick"]
    assert len(site.picked()) == 6
    assert len(site.database.load(name)) == 6
    jobs.clear()
    patterns = {"to_pick": ("*/NonUniform_*",), "entries": ("*/NonUniform_*",)}
    assert train_picker_and_pick(picking_of(site.parameters(**patterns))) == (name,)
    assert jobs == ["train picker", "pick"]  # shards that are picked make no job
    again = site.parameters(shard_micrographs=6, threshold=-5.0)
    assert flow(name="parent")(lambda: pick_in_shards(again))() == ()  # one job is enough
    shards = replace(again, shard_micrographs=3, to_pick=("*/NonUniform_*",))
    assert len(flow(name="parent")(lambda: pick_in_shards(shards))()) == 2
