"""The pickers: one module a program."""
