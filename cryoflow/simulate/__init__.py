"""Simulated micrographs with known truth, and finished projects written around them."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryoflow.simulate.ground_truth import load_dataset as load_dataset
    from cryoflow.simulate.simulated_dataset import SimulatedDataset as SimulatedDataset
    from cryoflow.simulate.simulated_dataset import SimulatedMicrograph as SimulatedMicrograph
    from cryoflow.simulate.simulation import simulate_dataset as simulate_dataset

_HOMES = {
    "SimulatedDataset": "cryoflow.simulate.simulated_dataset",
    "SimulatedMicrograph": "cryoflow.simulate.simulated_dataset",
    "load_dataset": "cryoflow.simulate.ground_truth",
    "simulate_dataset": "cryoflow.simulate.simulation",
}
"""Public name -> module that defines it. Imported at its first use: declarations of this package stay cheap."""

__all__ = ["SimulatedDataset", "SimulatedMicrograph", "load_dataset", "simulate_dataset"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
