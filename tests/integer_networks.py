"""Small integer networks for tests."""

from functools import cache

import torch
from hypothesis import strategies as st

from norms import see
from spikediff.neurons import IntegerNeuron
from spikediff.systems.integer import IntegerSpikingUNet

SMALL = {"sample_size": 8, "in_channels": 1, "block_out_channels": (6, 10), "num_classes": 3}


def network(seed=0, **options):
    """A network whose norms and thresholds are not those of birth."""
    torch.manual_seed(seed)
    unet = IntegerSpikingUNet(**(SMALL | options)).train()
    torch.nn.init.normal_(unet.head.weight, std=0.1)
    for part in unet.modules():
        if isinstance(part, IntegerNeuron):
            torch.nn.init.normal_(part.log_theta, -1.0, 0.3)
            torch.nn.init.normal_(part.bias, 0.0, 0.3)
    return see(unet, *inputs(unet, 8), momentum=0.27)


@cache
def deployed(bits=8, **options):
    """The deployment form of a network; not to be changed."""
    return network(**options).to_integer(bits)


def inputs(unet, images, seed=1):
    """x_t, timesteps and classes."""
    g = torch.Generator().manual_seed(seed)
    config = unet.config
    size = (images, config.in_channels, config.sample_size, config.sample_size)
    return (
        torch.randn(size, generator=g),
        torch.randint(0, config.num_train_timesteps, (images,), generator=g),
        torch.randint(0, config.num_classes + 1, (images,), generator=g),
    )


SHAPES = [
    {"block_out_channels": (5,), "layers_per_block": 2},
    {"block_out_channels": (6, 10)},
    {"block_out_channels": (4, 4, 7)},
]


def _shaped(shape, **options):
    return network(**shape, **options)


networks = st.builds(
    _shaped,
    shape=st.sampled_from(SHAPES),
    seed=st.integers(0, 1000),
    levels=st.integers(1, 8),
    head_levels=st.sampled_from([1, 15, 127]),
    in_channels=st.sampled_from([1, 3]),
    patch_size=st.sampled_from([1, 2]),
    per_channel=st.booleans(),
)
