"""The machine: programs, processes, checks."""
