"""The pickers: one module or package per program."""
