"""A page in the browser: what a model generates, how it spikes meanwhile, and what that costs."""
