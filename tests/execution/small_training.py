"""`small_training.py FOLDER MODEL...`: small trainings of the un-picker, one after the other.

While FOLDER/hold exists, the first one stops in its second epoch, makes FOLDER/held and waits for a signal.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "promises"))

from promise_tools import make_entry

from cryoflow.preparation.two_channel import TwoChannelPreprocessing
from cryoflow.unpicker.labeled import LabeledSet
from cryoflow.unpicker.prepared_split import Progress
from cryoflow.unpicker.train import train
from cryoflow.unpicker.train_options import TrainOptions

STEPS = 7
"""Of an epoch."""


def main(folder: Path, models: list[str]) -> None:
    """Train each model with the same options on the same entry."""
    entry = make_entry(folder, n=6, labels=True)
    options = TrainOptions(
        preprocessing=TwoChannelPreprocessing(pixels_per_diameter=12, margin_px=1), widths=(8,), blocks=(1,), epochs=3,
        patience=9, batch=16, least_steps=STEPS, validation=0.34, test=0.0, workers=1, cache_dir=folder / "cache",
    )  # fmt: skip

    def on_progress(progress: Progress) -> None:
        if progress.stage != "training":
            return
        print("step", progress.done, flush=True)
        while progress.done > STEPS + 3 and (folder / "hold").exists():
            (folder / "held").touch()
            time.sleep(0.1)

    for model in models:
        print("model", model, flush=True)
        train(LabeledSet.from_picks([entry]), folder / model, options, on_progress=on_progress)


main(Path(sys.argv[1]), sys.argv[2:])
