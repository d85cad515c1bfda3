"""Check the preprocessing options that the older emUnpicker takes at evaluation against the model, which stores them.

In the older program, another value at evaluation than at training gave wrong results without a warning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryoflow.cli import output as out

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryoflow.unpicker.bundle import ModelBundle


def check_as_trained(bundle: ModelBundle, given: Mapping[str, float | None]) -> None:
    """Refuse values that are not those of the training.

    Parameters
    ----------
    given
        By the option's name without dashes; None where it was not given. A box size is in pixels of the micrographs
        that the model was trained on.

    Raises
    ------
    UsageError
        Where a classic model was trained with another value.
    """
    import numpy as np

    from cryoflow.unpicker.emunpicker import EmUnpickerPreprocessing

    asked = {name: value for name, value in given.items() if value is not None}
    if not asked:
        return
    kept = bundle.preprocessing
    if not isinstance(kept, EmUnpickerPreprocessing):
        names = ", ".join(f"--{name}" for name in asked)
        out.say(f"note: {names}: not used, for this model has a preprocessing of its own")
        return
    pixel_size_A = float(np.median([row.pixel_size_A for row in bundle.manifest]))
    trained = {
        "boxsize": kept.boxsize_A / pixel_size_A,
        "sigma-contrast": kept.sigma_contrast,
        "lowpass": kept.lowpass_A,
        "highpass": kept.highpass_A,
        "gaussian-sigma": kept.gaussian_sigma_px,
        "resized-box": kept.resized_box_px,
    }
    other = [f"--{name} {trained[name]:g}" for name, value in asked.items() if abs(value - trained[name]) > 1e-3]
    if other:
        raise out.UsageError(f"the model was trained with {', '.join(other)}: leave it out, the model keeps it.")
