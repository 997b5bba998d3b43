"""The network of FSDDIM: from currents to currents, with only spikes between neurons.

Reference: Watanabe, Mukuta and Harada, "Fully spiking denoising diffusion implicit models", 2023
(arXiv 2312.01742). docs/systems/fsddim.md lists where the released code differs from the paper, and
which is the default here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DModel, UNet2DOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from spikediff.diffusion.model import SpikingModel
from spikediff.diffusion.return_dict import Answering
from spikediff.errors import UserError, check_number
from spikediff.layers import (
    class_embedding,
    embed_classes,
    join_channels,
    nearest_upsample,
    one_or_each,
    over_time,
    pointwise_conv,
)
from spikediff.layers.coding import direct, mean
from spikediff.layers.recomputation import ComputesBlocksAgain, computed
from spikediff.layers.sizes import (
    check_positive,
    check_sample,
    check_sizes,
    check_whole,
    make_neuron_maker,
)
from spikediff.neurons import Memory, NeuronLayer, NeuronState
from spikediff.systems.ddpm.network import ddpm_unet_like
from spikediff.systems.fsddim.blocks import (
    PostActivationBlock,
    SpikingTimestepEmbedding,
    SynapticResampling,
    average_downsample,
    same_size,
)
from spikediff.systems.fsddim.latent_space import CurrentSpace

# u[n] = 0.8 u[n-1] (1 - s[n-1]) + I[n]; s[n] = 1 where u[n] > 1; the reset carries no gradient.
PUBLISHED_NEURON: dict[str, Any] = {
    "decay": 0.8,
    "decay_input": False,
    "strict_threshold": True,
    "detach_reset": True,
    "surrogate": {"name": "triangular", "half_width": 0.5},
}

Timestep = Tensor | float | int
MakeBlock = partial[PostActivationBlock]
MakeResampling = partial[SynapticResampling]


class _Level(nn.Module):
    """The residual blocks of one image size, and what leads to the next level."""

    blocks: nn.ModuleList
    resampling: SynapticResampling

    def __init__(self, blocks: Sequence[nn.Module], resampling: SynapticResampling) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.resampling = resampling


class SynapticCurrentUNet(ComputesBlocksAgain, SpikingModel):
    r"""A fully spiking denoiser of synaptic currents: 52,540,547 parameters by default.

    It maps a window of currents, one image-sized array per spiking step, to such a
    window: its read-out is a 1x1 convolution of spikes (and of the stem's current) without a
    neuron. As an image denoiser it repeats the image at every spiking step and averages its
    output.

    Args:
        sample_size: Height and width of a pipeline's images; `forward` also accepts other suitable
            sizes.
        in_channels: Channels of the image.
        out_channels: Channels of the estimate; as many as `in_channels` by default.
        base_channels: Width of the first level.
        channel_mult: Width after every level, in multiples of `base_channels`; its length is the
            number of levels, and every level but the last halves the image.
        layers_per_block: Residual blocks per level, on the way down and on the way up.
        spiking_steps: T for an image; a window of currents has its own.
        neuron: Key of `spikediff.neurons.NEURONS`.
        neuron_options: Keyword arguments of the neuron; by default `PUBLISHED_NEURON` for "lif".
        dropout: Probability of dropping a spiking unit in training.
        residual_alpha: Gain of the norms whose results are added in a residual block: 1 is the
            value in effect in the released trainer, `2 ** -0.5` is the genuine tdBN.
        spiking_stem: Whether neurons follow the first convolution. Without them, as published,
            its real-valued current enters two blocks and the read-out.
        spiking_resampling: Whether neurons fire where the image size changes. Without them, as
            published, two convolutions follow each other directly.
        num_train_timesteps: Rows of the frozen timestep table.
        num_classes: K classes; 0 for a network without classes.

    Example:
        >>> import torch
        >>> model = SynapticCurrentUNet(8, 1, base_channels=8, channel_mult=(1, 2), spiking_steps=4)
        >>> model(torch.randn(2, 1, 8, 8), timestep=10).sample.shape
        torch.Size([2, 1, 8, 8])
        >>> model(torch.randn(4, 2, 1, 8, 8), timestep=10).sample.shape
        torch.Size([4, 2, 1, 8, 8])
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 32,
        in_channels: int = 3,
        out_channels: int | None = None,
        base_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        layers_per_block: int = 2,
        spiking_steps: int = 8,
        neuron: str = "lif",
        neuron_options: Mapping[str, Any] | None = None,
        dropout: float = 0.0,
        residual_alpha: float = 1.0,
        spiking_stem: bool = False,
        spiking_resampling: bool = False,
        num_train_timesteps: int = 1000,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        network = "SynapticCurrentUNet"
        check_whole(network, "sample_size", sample_size)  # its merged synapses know squares alone
        check_sizes(network, sample_size, base_channels, channel_mult, layers_per_block, dropout)
        check_positive(
            network,
            in_channels=in_channels,
            out_channels=out_channels or in_channels,
            spiking_steps=spiking_steps,
            num_train_timesteps=num_train_timesteps,
        )
        check_number(f"{network}: residual_alpha", residual_alpha, above=0)
        published = PUBLISHED_NEURON if neuron == "lif" else {}
        make_neuron = make_neuron_maker(network, neuron, neuron_options or published)
        make_block = partial(
            PostActivationBlock,
            embedding_channels=4 * base_channels,
            neuron=make_neuron,
            dropout=dropout,
            residual_alpha=residual_alpha,
        )
        between = partial(SynapticResampling, neuron=make_neuron if spiking_resampling else None)
        last = partial(SynapticResampling, resize=same_size, kernel_size=3, neuron=make_neuron)
        widths = [base_channels, *(base_channels * m for m in channel_mult)]  # [levels + 1]

        self.time_embedding = SpikingTimestepEmbedding(
            base_channels, 4 * base_channels, num_train_timesteps, make_neuron
        )
        self.class_embedding = class_embedding(num_classes, 4 * base_channels)
        self.stem = SynapticResampling(
            in_channels, base_channels, same_size, 3, make_neuron if spiking_stem else None
        )
        self.down_levels = _way_down(widths, layers_per_block, make_block, between, last)
        self.middle_blocks = nn.ModuleList([make_block(widths[-1], widths[-1]) for _ in range(2)])
        self.up_levels = _way_up(widths, layers_per_block, make_block, between, last)
        self.last_block = make_block(2 * base_channels, base_channels)
        seen = (2 + layers_per_block) * base_channels + layers_per_block * widths[1]
        self.readout = pointwise_conv(seen, out_channels or in_channels)

    def forward(
        self,
        sample: Tensor,
        timestep: Timestep,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[Tensor]:
        """Estimate what `prediction_type` says, in currents or in images.

        The arguments are those of `SpikingUNet.forward`, except that the sample may also be
        currents [T, B, C, H, W] for any T.

        Returns:
            An output whose `.sample` has the form of the input: currents
            [T, B, C_out, H, W], or their mean over T for images.
        """
        is_window = isinstance(sample, Tensor) and sample.dim() == 5
        self._check(sample[0] if is_window and len(sample) else sample)
        currents = sample if is_window else self.first_currents(sample)
        estimate = self._run(currents, timestep, class_labels, None)
        estimate = estimate if is_window else mean(self.image_currents(estimate))
        return UNet2DOutput(sample=estimate) if return_dict else (estimate,)

    if TYPE_CHECKING:
        __call__: Answering[..., UNet2DOutput]

    def ann_counterpart(self) -> UNet2DModel:
        """Return an untrained ordinary network with the same widths."""
        return ddpm_unet_like(self.config)

    def latent_space(self) -> CurrentSpace:
        """Return the space of currents."""
        return CurrentSpace(self)

    def first_currents(self, noise: Tensor) -> Tensor:
        """Return noise [B, C, H, W] as currents [T, B, C, H, W], equal at all spiking steps."""
        return direct(noise, self.config.spiking_steps)

    def image_currents(self, currents: Tensor) -> Tensor:
        """Return the currents [T, B, C, H, W] whose mean is the image: all of them."""
        return currents

    @apply_forward_hook
    def step(
        self,
        current: Tensor,
        timestep: Timestep,
        state: Mapping[str, NeuronState] | None = None,
        class_labels: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, NeuronState]]:
        """Run one spiking step, as a chip would: the outputs of T steps are those of the window.

        Args:
            current: Current of this spiking step [B, C, H, W].
            timestep: Diffusion timestep, the same in all steps of a window.
            state: State after the previous step; None starts a window.
            class_labels: As in `forward`, the same in all steps of a window.

        Returns:
            The output current of this step [B, C_out, H, W], and the state after it: membranes by
            layer name.

        Raises:
            UserError: The model is in training mode (batch norm would see only one step), the
                current does not fit, or the state belongs to another network.
        """
        self._check(current)
        if self.training:
            raise UserError(
                "SynapticCurrentUNet.step: call `.eval()` first; training needs windows"
            )
        return run_step(
            self, lambda memory: self._run(current[None], timestep, class_labels, memory), state
        )

    def _check(self, sample: Tensor) -> None:
        check_sample(
            type(self).__name__, sample, self.config.in_channels, len(self.config.channel_mult)
        )

    def _run(
        self, currents: Tensor, timestep: Any, class_labels: Tensor | None, memory: Memory | None
    ) -> Tensor:
        """Return the output currents [T, B, C_out, H, W] for currents [T, B, C, H, W]."""
        batch = currents.shape[1], currents.device
        timestep = one_or_each("timestep", timestep, *batch)  # [B or 1]
        classes = embed_classes(self.class_embedding, class_labels, *batch)
        embedding = self.time_embedding(timestep, len(currents), memory, classes)  # [T, B or 1, E]
        h = self.stem(currents, memory)
        skips = [h]
        for level in _levels(self.down_levels):
            for block in level.blocks:
                h = computed(block, h, embedding, memory)
                skips.append(h)
            h = level.resampling(h, memory)
        for block in self.middle_blocks:
            h = computed(block, h, embedding, memory)
        shallow = skips[: 1 + self.config.layers_per_block]  # of the full image size
        for level in _levels(self.up_levels):
            risen = []
            for block in level.blocks:
                h = computed(block, join_channels([h, skips.pop()]), embedding, memory)
                risen.append(h)
            h = level.resampling(h, memory)
        h = computed(self.last_block, join_channels([h, skips.pop()]), embedding, memory)
        return over_time(self.readout, join_channels([h, *shallow, *risen]))


def run_step(
    network: nn.Module, run: Callable[[Memory], Tensor], state: Mapping[str, NeuronState] | None
) -> tuple[Tensor, dict[str, NeuronState]]:
    """Run a network for one spiking step; return its output and the state after it.

    `run` maps the memory of the neurons, which it changes, to the output [1, B, C, H, W]. A state
    has membranes by layer name; None starts a window.
    """
    layers = {n: m for n, m in network.named_modules() if isinstance(m, NeuronLayer)}
    if state is not None and state.keys() != layers.keys():
        raise UserError(f"{type(network).__name__}.step: the state is that of another network")
    memory: Memory = {layers[name]: value for name, value in (state or {}).items()}
    output = run(memory)
    return output[0], {name: memory[layer] for name, layer in layers.items()}


def _levels(modules: nn.ModuleList) -> Iterable[_Level]:
    return cast(Iterable[_Level], modules)


def _way_down(
    widths: list[int],
    layers_per_block: int,
    block: MakeBlock,
    between: MakeResampling,
    last: MakeResampling,
) -> nn.ModuleList:
    """Return the levels on the way down; `widths` are those before and after every level."""
    shrink = partial(between, resize=average_downsample, kernel_size=1)
    levels = nn.ModuleList()
    for i, (width, next_width) in enumerate(pairwise(widths)):
        blocks = [block(width, width) for _ in range(layers_per_block)]
        lead = last if i == len(widths) - 2 else shrink
        levels.append(_Level(blocks, lead(width, next_width)))
    return levels


def _way_up(
    widths: list[int],
    layers_per_block: int,
    block: MakeBlock,
    between: MakeResampling,
    last: MakeResampling,
) -> nn.ModuleList:
    """Return the levels on the way up; every block takes the last remaining skip."""
    grow = partial(between, resize=nearest_upsample, kernel_size=3)
    levels = nn.ModuleList()
    for i in range(len(widths) - 1, 0, -1):
        width, skip = widths[i], widths[i - 1]
        blocks = [block(width + skip, width) for _ in range(layers_per_block)]
        lead = last if i == 1 else grow
        levels.append(_Level(blocks, lead(width, skip)))
    return levels
