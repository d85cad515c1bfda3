"""Versions of trained models: where they lie, which one is in use, and whether a new one may replace it."""
