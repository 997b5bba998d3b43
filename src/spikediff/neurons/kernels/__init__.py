"""Ways to run the scan over spiking steps; `reference` is the one that defines the answer."""
