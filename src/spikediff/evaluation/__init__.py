"""Measuring generated images.

A feature network (`features/`) turns images into features. A metric (`metrics.py`) compares two
sets of features. A protocol (`protocol.py`) names the networks, metrics and reference images:

    network = load_features("classifier", dataset=load_images("digits"))
    real, fake = (extract(network, images).features for images in (test_images, generated_images))
    frechet_distance(real, fake)
"""
