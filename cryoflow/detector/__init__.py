"""A particle picker of our own: one network that finds particles on whole micrographs, and a general model of it.

network     the fully convolutional network
prepare     micrographs as it sees them
simulated   labeled micrographs of many invented specimens
examples    prepared micrographs with labels; `targets` draws their maps, `stream` makes batches of them
loss, fit   how it learns
model       a trained detector as a folder; `general` ships with cryoflow
peaks, pick from answers to picks
calibrate   probabilities that mean what they say, a threshold without labels
metrics     average precision, recall and F1 against known particles
"""
