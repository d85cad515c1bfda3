"""The unpicker: a network that tells right picks from wrong ones, learnt from micrographs that were cleaned.

label     which picks are right, wrong, not known      train      a model bundle from labeled micrographs
unpick    score picks and keep the right ones          evaluate   numbers from micrographs never used else
suggest   which micrographs to clean next
"""
