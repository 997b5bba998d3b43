"""Denoisers as graphs of the neuromorphic intermediate representation (NIR)."""
