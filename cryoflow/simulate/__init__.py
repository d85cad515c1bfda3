"""Simulated micrographs with known truth, and finished projects written around them."""

from cryoflow.simulate.dataset import SimulatedDataset, SimulatedMicrograph
from cryoflow.simulate.make import simulate_dataset
from cryoflow.simulate.truth import load_dataset

__all__ = ["SimulatedDataset", "SimulatedMicrograph", "load_dataset", "simulate_dataset"]
