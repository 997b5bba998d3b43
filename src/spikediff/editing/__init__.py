"""Editing: inpainting, variations, inversion and interpolation, with the networks that generate."""
