"""The spiking image decoder (SDID) of Spiking-Diffusion, which predicts masked tokens.

Liu et al., section 2.3, does not give the layers; they are those of the authors' code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from spikediff.diffusion.model import SpikingModel
from spikediff.diffusion.return_dict import Answering
from spikediff.errors import UserError
from spikediff.layers import (
    SpikingLayer,
    class_embedding,
    embed_classes,
    join_channels,
    one_or_each,
    over_time,
)
from spikediff.layers.coding import mean
from spikediff.layers.norm import BatchNorm2d
from spikediff.layers.sizes import check_positive, check_widths, choose, make_neuron_maker

INPUTS = {
    "embedding": "a learned vector per token and for MASK",
    "raw": "the number of the token and the timestep, as two real channels (released code)",
}


@dataclass
class SpikingImageDecoderOutput(BaseOutput):
    """Logits [B, K, h, w] of every code, at every position, masked or not."""

    sample: Tensor


class SpikingImageDecoder(SpikingModel):
    """The second stage of Spiking-Diffusion: tokens with masks -> logits of the masked tokens.

    It has 3x3 spiking convolutions that keep the size, and a last one, whose input is the spikes of
    the last layer and of the first; the logits are its mean current. With the default widths and
    `input="raw"` it is the released network of 3,101,504 parameters.

    Args:
        codebook_size: K, the number of codes; MASK is the token K.
        widths: Channels of the spiking layers; at least one.
        spiking_steps: T, the number of spiking steps of a call.
        neuron: Key of `spikediff.neurons.NEURONS`.
        neuron_options: Keyword arguments of the neuron.
        input: "embedding"; or "raw", only for the authors' weights, because the order of the
            codebook has no meaning.
        embedding_channels: Length of a token's vector; by default `widths[0]`.
        num_classes: K classes; 0 for a network without classes. The vector of a class is added to
            those of the tokens.

    Example:
        >>> model = SpikingImageDecoder(codebook_size=8, widths=(16, 16), spiking_steps=4).eval()
        >>> model(torch.full((2, 7, 7), 8)).sample.shape
        torch.Size([2, 8, 7, 7])
    """

    @register_to_config
    def __init__(
        self,
        codebook_size: int = 128,
        widths: Sequence[int] = (64, 128, 256, 512, 256),
        spiking_steps: int = 16,
        neuron: str = "lif",
        neuron_options: Mapping[str, Any] | None = None,
        input: str = "embedding",
        embedding_channels: int | None = None,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        choose("SpikingImageDecoder", INPUTS, "input", input)
        check_positive(
            "SpikingImageDecoder",
            codebook_size=codebook_size,
            spiking_steps=spiking_steps,
            embedding_channels=embedding_channels or 1,
        )
        check_widths("SpikingImageDecoder", widths=widths)
        channels = 2 if input == "raw" else embedding_channels or widths[0]
        make_neuron = make_neuron_maker("SpikingImageDecoder", neuron, neuron_options)
        if input == "embedding":
            self.embedding = nn.Embedding(codebook_size + 1, channels)  # the last row is MASK
        if num_classes and input == "raw":
            raise UserError('SpikingImageDecoder: num_classes needs input="embedding"')
        self.class_embedding = class_embedding(num_classes, channels)
        self.layers = nn.ModuleList(
            SpikingLayer(nn.Conv2d(old, new, 3, padding=1), BatchNorm2d(new), make_neuron())
            for old, new in zip([channels, *widths], widths, strict=False)
        )
        self.last = nn.Conv2d(widths[-1] + widths[0], codebook_size, 3, padding=1)

    @property
    def mask_token(self) -> int:
        """The token that stands for a masked position: K."""
        return int(self.config.codebook_size)

    def forward(
        self,
        tokens: Tensor,
        timestep: Tensor | float | int | None = None,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> SpikingImageDecoderOutput | tuple[Tensor]:
        """Estimate the tokens of a batch of grids of any size.

        Args:
            tokens: Whole numbers from 0 to K, which is MASK [B, h, w].
            timestep: Time t of the diffusion, one for all or one per grid [B]. Used only by
                `input="raw"`, because the number of masks has the same information.
            class_labels: Classes [B], 0 to K - 1, or K for no class; None is no class for all.
            return_dict: False returns a tuple.
        """
        x = self._encode(tokens, timestep)  # [B, C, h, w]
        classes = embed_classes(self.class_embedding, class_labels, tokens.shape[0], tokens.device)
        if isinstance(classes, Tensor):
            x = x + classes[:, :, None, None]
        first: SpikingLayer = self.layers[0]  # type: ignore[assignment]
        spikes = early = first.of_constant(x, self.config.spiking_steps)
        for layer in self.layers[1:]:
            spikes = layer(spikes)  # [T, B, C, h, w]
        currents = over_time(self.last, join_channels([spikes, early]))
        logits = mean(currents)  # [T, B, K, h, w] -> [B, K, h, w]
        return SpikingImageDecoderOutput(sample=logits) if return_dict else (logits,)

    if TYPE_CHECKING:
        __call__: Answering[..., SpikingImageDecoderOutput]

    def _encode(self, tokens: Tensor, timestep: Tensor | float | int | None) -> Tensor:
        """Return the real-valued input [B, C, h, w]."""
        if tokens.dim() != 3 or tokens.is_floating_point():
            raise UserError(
                f"SpikingImageDecoder: expects tokens [B, h, w], got {tokens.dtype} "
                f"{tuple(tokens.shape)}"
            )
        if tokens.device.type == "cpu" and not torch.compiler.is_compiling():
            outside = tokens[(tokens < 0) | (tokens > self.mask_token)]
            for wrong in outside[:1].tolist():
                raise UserError(
                    f"SpikingImageDecoder: tokens must lie between 0 and {self.mask_token} (MASK), "
                    f"not {wrong}"
                )
        if self.config.input == "embedding":
            vectors: Tensor = self.embedding(tokens)  # [B, h, w, C]
            return vectors.movedim(-1, 1)
        if timestep is None:
            raise UserError('SpikingImageDecoder: input="raw" needs a timestep')
        t = one_or_each("timestep", timestep, tokens.shape[0], tokens.device)
        t = t.reshape(-1, 1, 1).expand_as(tokens)
        return torch.stack([tokens, t], dim=1).to(self.dtype)
