"""Comparing picks: matching, evaluation, consensus, training curves."""
