"""The unpicker: a network that removes wrong picks, trained on cleaned micrographs or on what survived a refinement.

label       label picks as positive, negative or unlabeled     train      train a model bundle on labeled micrographs
unpick      score picks and keep the good ones                 evaluate   measure a model on unseen micrographs
suggest     name the micrographs to clean next
"""
