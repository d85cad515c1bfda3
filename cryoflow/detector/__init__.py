"""A particle picker of our own: one network that finds particles on whole micrographs, and a general model of it.

network, loss          the fully convolutional network and its loss
prepare, loading       micrographs as its input, and why some cannot be used
simulated              labeled micrographs of many invented specimens
labels, training_data  labeled micrographs of the projects of a database
examples               prepared micrographs with labels; `targets` draws their maps, `stream` makes batches of them
fit, checkpoint        the training loop; `train` runs it on a database, `general` for the model that ships
model                  a trained detector as a folder
peaks, pick, diameter  from the network's output to picks, and to the particle diameter
calibrate              calibration of probabilities, and a threshold without labels
metrics                average precision, recall and F1 against known particles
"""
