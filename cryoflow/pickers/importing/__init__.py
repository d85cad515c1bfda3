"""Picks of other programs, read into a database."""
