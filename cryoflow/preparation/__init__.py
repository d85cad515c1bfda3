"""Preparation shared by both networks, from micrographs with picks to patches, and from scores to decisions.

picked        micrographs with their picks and labels
two_channel   the image that the networks see: Fourier-cropped once to a fixed number of pixels a diameter, two channels
patches       the interface of all preprocessings, and the checks before any
augment       random variants of patches
metrics       ranking, precision and recall, calibration, intervals
calibration   temperature, threshold, class prior
model_folder  the files of a trained model: weights as arrays, sealed description, checksums
"""
