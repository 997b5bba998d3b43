"""Handing a model on: loading it from anywhere, and its repository on the Hugging Face Hub."""
