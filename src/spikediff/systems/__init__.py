"""One folder per system: network, loss, deployment."""
