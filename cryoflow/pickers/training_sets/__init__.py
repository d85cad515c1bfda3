"""Training sets: what all pickers share when entries are exported."""
