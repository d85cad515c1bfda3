"""Particle pickers, there and back: training sets for them, runs of them, and their picks as database entries."""

from cryoflow.pickers.base import Picker, picker, pickers
from cryoflow.pickers.export import ExportResult, export

__all__ = ["ExportResult", "Picker", "export", "picker", "pickers"]
