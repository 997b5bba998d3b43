"""The web page: what a model generates, its spikes, and the energy."""
