"""A labeled data set and a model of it, made once."""

from __future__ import annotations

import pytest
from unpicker_rings import make_set, small_options

from cryoflow.unpicker.labeled import LabeledSet


@pytest.fixture(scope="session")
def rings(tmp_path_factory) -> LabeledSet:
    """Eight labeled micrographs."""
    return make_set(tmp_path_factory.mktemp("rings"))


@pytest.fixture(scope="session")
def trained(rings, tmp_path_factory):
    """A model of them."""
    from cryoflow.unpicker.train import train

    folder = tmp_path_factory.mktemp("trained")
    return train(rings, folder / "model", small_options(folder))
