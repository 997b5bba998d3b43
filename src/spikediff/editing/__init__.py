"""Editing: inpaint, vary, invert and interpolate, with the networks that generate."""
