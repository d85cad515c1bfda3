"""Particle pickers, there and back: training sets for them, runs of them, and their picks as database entries."""
