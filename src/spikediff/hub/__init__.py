"""Load models from any source, and build their repositories for the Hugging Face Hub."""
