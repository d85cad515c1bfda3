"""Models that learn from one finished project after the other, and keep what they learned from the earlier ones."""
