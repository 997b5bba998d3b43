"""Measuring generated images.

A feature network (`features/`) turns images into features; a metric (`metrics.py`) compares two
sets of features; a protocol (`protocol.py`) says which of them, and against which images:

    network = load_features("classifier", dataset=load_images("digits"))
    real, fake = (extract(network, images).features for images in (test_images, generated_images))
    frechet_distance(real, fake)
"""
