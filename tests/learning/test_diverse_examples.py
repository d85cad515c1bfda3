"""Exemplars differ: looks are measured on crops of any shape, and unknown defocus takes no part."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from cryoflow.learning.diverse_examples import RINGS, features, most_varied, ring_power


@pytest.mark.parametrize("shape", [(32, 32, 2), (20, 48, 2), (48, 17, 1)])
def test_looks_tell_smooth_from_rough_crops_of_any_shape(shape: tuple[int, int, int]) -> None:
    rough = np.random.default_rng(0).standard_normal(shape)
    smooth = ndimage.gaussian_filter(rough, (2, 2, 0))
    assert ring_power(rough).shape == (RINGS * shape[2],)
    difference = (ring_power(rough) - ring_power(smooth)).reshape(shape[2], RINGS)
    assert (np.diff(difference[:, 1:5], axis=1) > 0).all()  # the finer, the more is lost


def test_the_odd_one_is_among_few_chosen_and_unknown_defocus_is_no_difference() -> None:
    n = 50
    defocus = np.full(n, np.nan)
    appearance = np.random.default_rng(1).normal(0, 0.01, (n, 4))
    appearance[17] = 9
    points = features(defocus, np.full(n, 5.0), appearance)
    assert np.isfinite(points).all()
    assert 17 in most_varied(points, 3)
    assert sorted(most_varied(points[:2], 3)) == [0, 1]
