"""Sizes that many tests share."""

# The smallest U-Net with two resolutions.
U_NET = {
    "sample_size": 8,
    "in_channels": 1,
    "base_channels": 8,
    "channel_mult": (1, 2),
    "layers_per_block": 1,
}

# One with a single resolution, for tests of what is around a network.
ONE_LEVEL = {**U_NET, "channel_mult": (1,)}
