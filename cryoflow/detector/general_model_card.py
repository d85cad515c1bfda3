"""The card of the general model, in words: how it was made, on what, how good it is, and where its limits are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryoflow.detector.simulated import HELD_OUT

if TYPE_CHECKING:
    from cryoflow.detector.bundle import Detector
    from cryoflow.detector.general import GeneralRecipe


def general_card(detector: Detector, recipe: GeneralRecipe) -> str:
    """Return the card as Markdown."""
    from cryoflow.detector.bundle import half

    weights = sum(w.size for w in half(detector.weights).values())
    families = dict.fromkeys(f for s in recipe.stages for f in s.families)
    stages = "\n".join(
        f"- {s.name}: {s.specimens} specimens, {s.rounds * recipe.steps} batches of {recipe.batch} crops of "
        f"{recipe.crop_px} pixels, learning rate {s.learning_rate:g}"
        + f", families {', '.join(dict.fromkeys(s.families))}"
        + (", harder micrographs (wrong diameters, dense layers, coarse pixels)" if s.hard else "")
        + (", begun with the weights of the stage before" if number else "")
        + (", without the specimens of earlier stages" if s.only_new else "")
        for number, s in enumerate(recipe.stages)
    )
    figures = "\n".join(f"- {name}: {value:.3f}" for name, value in sorted(detector.metrics.items()))
    return f"""# The general detector

Finds particles of any specimen of 70 to 400 A on motion-corrected micrographs, without labels.

## Recipe

Network: fully convolutional, {weights:,} weights in half precision, widths {recipe.widths}, residual blocks
{recipe.blocks}. Input: two channels at {detector.pixels_per_diameter:g} pixels per particle diameter.
Seed {recipe.seed}, recipe {recipe.fingerprint}. Made by `cryoflow detector train-general`.

{stages}

## Data

Simulated micrographs only. Trained on the families {", ".join(families)}. Never trained on: the families
{", ".join(HELD_OUT)}, density maps and structures of real complexes, and real micrographs.

## Measured on validation specimens of the trained families

{figures}

Figures on held-out specimens are in docs/detector.md.

## Limits

- Trained on simulated images alone: real micrographs may show backgrounds that it has never seen.
- The particle must be dark on a bright background, as in motion-corrected micrographs without contrast inversion.
- Long thin particles that cross or touch are found less well than compact ones, and their estimated diameter is too
  small.
- It cannot tell a particle from another complex of the same size; 2D classes can.
- Probabilities are calibrated on simulated data.
"""
