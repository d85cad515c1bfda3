"""The command `cryoflow`. Commands live beside this file, one module a group; each imports its heavy parts where it uses them."""

from __future__ import annotations

from cyclopts import App

import cryoflow

app = App(
    name="cryoflow",
    version=cryoflow.__version__,
    help="From finished cryo-EM projects to trained particle pickers and clean picks.",
)
