"""The spiking U-Net of SDDPM and SDM: a denoiser whose convolutions receive spikes.

Reference: Cao et al., "Spiking denoising diffusion probabilistic models", WACV 2024
(arXiv 2306.17046), and, with temporal scaling, Cao et al., "Spiking diffusion models", IEEE TAI
2025 (arXiv 2408.16467). docs/systems/sddpm.md and docs/systems/sdm.md list where the authors' code
differs from the papers, and which is the default here.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DModel, UNet2DOutput
from torch import Tensor, nn

from spikediff.diffusion.model import SpikingModel
from spikediff.diffusion.return_dict import Answering
from spikediff.layers import (
    TimestepEmbedding,
    class_embedding,
    embed_classes,
    join_channels,
    one_or_each,
)
from spikediff.layers.coding import DECODERS
from spikediff.layers.conv import Convolution
from spikediff.layers.recomputation import ComputesBlocksAgain, computed
from spikediff.layers.sizes import (
    check_dimensions,
    check_places,
    check_positive,
    check_sample,
    check_sizes,
    choose,
    make_neuron_maker,
    patches_of,
    sides_of,
)
from spikediff.layers.temporal_scaling import TemporalScaling
from spikediff.layers.unet import way_down, way_up
from spikediff.systems.ddpm.network import ddpm_unet_like
from spikediff.systems.sddpm.blocks import (
    BLOCKS,
    Downsample,
    Head,
    Kit,
    SpikingHead,
    Stem,
    Upsample,
)


class SpikingUNet(ComputesBlocksAgain, SpikingModel):
    """The SDDPM network: 66,696,413 parameters and 51 neuron layers by default; or SDM's.

    Args:
        sample_size: Height and width of a pipeline's images, a number or a pair, or length L of its
            signals; `forward` also accepts other suitable sizes.
        in_channels: Channels of the image or signal.
        out_channels: Channels of the estimate; as many as `in_channels` by default.
        base_channels: Width of the first level.
        channel_mult: Width of every level, in multiples of `base_channels`; its length is the
            number of levels, and every level but the last halves the image.
        layers_per_block: Residual blocks per level (one more on the way up).
        spiking_steps: T, the number of spiking steps of a call.
        neuron: Key of `spikediff.neurons.NEURONS`.
        neuron_options: Keyword arguments of the neuron (`{"tau": 2.0, "surrogate": "sigmoid"}`).
        block: Key of `spikediff.systems.sddpm.blocks.BLOCKS`: "pre_spike" or "plain".
        dropout: Probability of dropping a spiking unit in training.
        readout: Key of `spikediff.layers.coding.DECODERS`: "decayed_sum", "mean" or "last".
        num_train_timesteps: Rows of the frozen timestep table.
        temporal_scaling: Whether every convolution but the last has a learned factor per spiking
            step (SDM's TSM): 268 parameters more by default. T is then fixed by the weights.
        num_classes: K classes; 0 for a network without classes.
        patch_size: Side of the pixel patches that become channels of one position; 2 saves three
            quarters of the work. 1 is the published network.
        dimensions: 2 for images [B, C, H, W]; 1 for signals [B, C, L], with kernels of 3 instead
            of 3x3.
        spiking_head: Whether the head is one convolution of spikes, instead of SDDPM's real-valued
            head. With it, `readout="mean"` and one level, every operation exports to NIR.
        position_embedding: Whether every position has its own learned current after the stem, as
            in vision transformers (Dosovitskiy et al. 2021), because convolutions hardly encode
            positions. `sample_size` is then the only size.

    Example:
        >>> import torch
        >>> model = SpikingUNet(sample_size=8, in_channels=1, base_channels=8, channel_mult=(1, 2))
        >>> model(torch.randn(2, 1, 8, 8), timestep=10).sample.shape
        torch.Size([2, 1, 8, 8])
        >>> model = SpikingUNet(64, 1, base_channels=8, channel_mult=(1, 2), dimensions=1)
        >>> model(torch.randn(2, 1, 64), timestep=10).sample.shape
        torch.Size([2, 1, 64])
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int | Sequence[int] = 32,
        in_channels: int = 3,
        out_channels: int | None = None,
        base_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 4),
        layers_per_block: int = 2,
        spiking_steps: int = 4,
        neuron: str = "if",
        neuron_options: Mapping[str, Any] | None = None,
        block: str = "pre_spike",
        dropout: float = 0.0,
        readout: str = "decayed_sum",
        num_train_timesteps: int = 1000,
        temporal_scaling: bool = False,
        num_classes: int = 0,
        patch_size: int = 1,
        dimensions: int = 2,
        spiking_head: bool = False,
        position_embedding: bool = False,
    ) -> None:
        super().__init__()
        check_dimensions("SpikingUNet", dimensions, patch_size)
        sides = sides_of("SpikingUNet", sample_size, dimensions)
        places = [patches_of("SpikingUNet", side, patch_size) for side in sides]
        check_sizes(
            "SpikingUNet",
            sample_size if dimensions == 2 else sides[0],
            base_channels,
            channel_mult,
            layers_per_block,
            dropout,
            patch_size,
        )
        check_positive(
            "SpikingUNet",
            in_channels=in_channels,
            out_channels=out_channels or in_channels,
            spiking_steps=spiking_steps,
            num_train_timesteps=num_train_timesteps,
        )
        make_block = choose("SpikingUNet", BLOCKS, "block", block)
        kit = Kit(
            neuron=make_neuron_maker("SpikingUNet", neuron, neuron_options),
            neuron_first=block == "pre_spike",
            scaling=partial(TemporalScaling, spiking_steps) if temporal_scaling else nn.Identity,
            dropout=dropout,
            embedding_channels=4 * base_channels,
            dimensions=dimensions,
        )
        self.decode = choose("SpikingUNet", DECODERS, "readout", readout)

        self.time_embedding = TimestepEmbedding(
            base_channels, kit.embedding_channels, num_train_timesteps
        )
        self.class_embedding = class_embedding(num_classes, kit.embedding_channels)
        pixels = patch_size**2  # of a patch
        self.stem = Stem(
            kit,
            pixels * in_channels,
            base_channels,
            spiking_steps,
            places if position_embedding else None,
        )
        widths = [base_channels * m for m in channel_mult]
        block_of, width = partial(make_block, kit), widths[-1]
        self.down_blocks, skips = way_down(
            base_channels, widths, layers_per_block, block_of, partial(Downsample, kit)
        )
        self.middle_blocks = nn.ModuleList([block_of(width, width) for _ in range(2)])
        self.up_blocks = way_up(widths, layers_per_block, skips, block_of, partial(Upsample, kit))
        head = SpikingHead if spiking_head else Head
        self.head: Head | SpikingHead = head(kit, widths[0], pixels * (out_channels or in_channels))
        self._initialise()

    def ann_counterpart(self) -> UNet2DModel:
        """Return the ordinary network of the same widths, depths and images, untrained."""
        return ddpm_unet_like(self.config)

    def _initialise(self) -> None:
        """Xavier-uniform weights and zero biases, as in the authors' code, and a small head."""
        default = [self.stem.synapse, self.head]  # left as torch draws them
        spared = {id(m) for part in default for m in part.modules()}
        for module in self.modules():
            if isinstance(module, Convolution | nn.Linear) and id(module) not in spared:
                _xavier(module)
        _xavier(self.head.conv, gain=1e-5)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[Tensor]:
        """Estimate the noise (or what `prediction_type` says) in a batch of images, or of signals.

        Args:
            sample: Noisy images x_t [B, C, H, W], or signals [B, C, L].
            timestep: Diffusion timestep t, one for all (a number or 0-dim) or one per image [B].
            class_labels: Classes [B], 0 to K - 1, or K for no class; None is no class for all.
            return_dict: False returns a tuple.

        Returns:
            An output whose `.sample` is the estimate [B, C_out, H, W] or [B, C_out, L].
        """
        config = self.config
        patch, levels = config.patch_size, len(config.channel_mult)
        check_sample("SpikingUNet", sample, config.in_channels, levels, patch, config.dimensions)
        if config.position_embedding:
            check_places("SpikingUNet", sample, config.sample_size)
        batch = sample.shape[0], sample.device
        embedding = self.time_embedding(one_or_each("timestep", timestep, *batch))  # [B or 1, E]
        embedding = embedding + embed_classes(self.class_embedding, class_labels, *batch)
        h = self.stem(nn.functional.pixel_unshuffle(sample, patch))  # [T, B, C, H, W]
        skips = [h]
        for block in self.down_blocks:
            h = block(h) if isinstance(block, Downsample) else computed(block, h, embedding)
            skips.append(h)
        for block in self.middle_blocks:
            h = computed(block, h, embedding)
        for block in self.up_blocks:
            if isinstance(block, Upsample):
                h = block(h)
            else:
                h = computed(block, join_channels([h, skips.pop()]), embedding)
        estimate = self.decode(self.head(h))  # [T, B, C, H, W] -> [B, C, H, W]
        estimate = nn.functional.pixel_shuffle(estimate, patch)
        return UNet2DOutput(sample=estimate) if return_dict else (estimate,)

    if TYPE_CHECKING:
        __call__: Answering[..., UNet2DOutput]


def _xavier(layer: Convolution | nn.Linear, gain: float = 1.0) -> None:
    nn.init.xavier_uniform_(layer.weight, gain=gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
