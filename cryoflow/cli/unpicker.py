"""`cryoflow unpicker ...`: label, train, update, evaluate, unpick, suggest, info.

Options that the older emUnpicker had keep their names (`--train-root`, `--boxsize`, `--sigma-contrast`, `--apix`, ...);
those of preprocessing are given at training alone, for the model keeps them.
"""

from __future__ import annotations

from cyclopts import App

from cryoflow.cli.learning import update_unpicker
from cryoflow.cli.unpicker_evaluate import evaluate, info, suggest
from cryoflow.cli.unpicker_train import label, train
from cryoflow.cli.unpicker_unpick import unpick

app = App(name="unpicker", help="Train the network that removes wrong picks, and use it.", help_format="plaintext")
app.command(label, sort_key=1)
app.command(train, sort_key=2)
app.command(evaluate, sort_key=3)
app.command(unpick, sort_key=4)
app.command(suggest, sort_key=5)
app.command(info, sort_key=6)
app.command(update_unpicker, name="update", sort_key=7)
