"""The benchmark on a GPU: neurons, training steps, and the trainer."""
