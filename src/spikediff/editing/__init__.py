"""Editing: inpaint, vary, invert and interpolate with a trained pipeline."""
