"""Picking without labels: cryoflow's own detector on new micrographs, in shards where stages are jobs."""

from __future__ import annotations

from prefect import flow

from cryoflow.cluster.dispatch import dispatches, run_stage
from cryoflow.database import Database
from cryoflow.detector.parameters import FindParticlesParameters
from cryoflow.models.find_model import with_model
from cryoflow.picks import Kind
from flows.picking_shards import PickShardParameters, pick, pick_in_shards
from flows.run_page import run_name

PICKER = "cryoflow"


@flow(name="find particles", flow_run_name=run_name("find particles", lambda p: p.database.name))
def find_particles(parameters: FindParticlesParameters) -> tuple[str, ...]:
    """Find particles on micrographs without labels, and return the new entries' names.

    The detector that ships needs the particle diameter and no training. A second run picks only what is missing.
    """
    rest = picking_of(with_model(parameters))
    if not dispatches():
        return pick(rest)
    pick_in_shards(rest)
    run_stage(pick, rest)
    entries = Database(parameters.database).entries()
    return tuple(e.name for e in entries if e.kind == Kind.AUTO_PICK and e.job == PICKER)


def picking_of(p: FindParticlesParameters) -> PickShardParameters:
    """Return the parameters of `pick`, which any picker shares."""
    return PickShardParameters(
        picker=PICKER,
        model=str(p.model),
        database=p.database,
        output=p.output or p.database.absolute().parent / "picked",
        micrographs=p.micrographs,
        to_pick=Database(p.database).matching(p.to_pick),
        diameter_A=p.diameter_A,
        pixel_size_A=p.pixel_size_A,
        threshold=p.threshold,
        gpus=p.gpus,
        cpus=p.cpus,
        shard_micrographs=p.shard_micrographs,
    )
