r"""The vector-quantised spiking autoencoder (VQ-SVAE) of Spiking-Diffusion: images <-> tokens.

image -> spiking encoder -> feature of the spikes -> nearest code -> adaptive spike generator ->
spiking decoder -> membrane read-out -> image. The second stage, the spiking image decoder,
learns to generate the tokens of the codes.

Reference: Liu et al., "Spiking-Diffusion: vector quantized discrete diffusion model with spiking
neural networks", arXiv 2308.10187, section 2.2. The paper gives no sizes; these, and everything
called "released", come from the authors' code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from spikediff.diffusion.model import SpikingModel
from spikediff.diffusion.return_dict import Answering
from spikediff.errors import UserError, check_number
from spikediff.layers import Neuron, SpikingLayer, over_time
from spikediff.layers.batch_invariant import elementwise
from spikediff.layers.coding import (
    decay_weights,
    psp_mmd,
    rate_and_membrane,
    rate_and_potential,
    weighted_sum,
)
from spikediff.layers.conv import doubling_convs, halving_convs
from spikediff.layers.norm import BatchNorm2d
from spikediff.layers.sizes import (
    check_halvings,
    check_positive,
    check_sample,
    check_widths,
    choose,
    make_neuron_maker,
)
from spikediff.systems.spiking_diffusion.quantiser import VectorQuantiser


class SpikingEncoder(nn.Module):
    """Convolutions of stride 2, then one of 1x1: images [B, C, H, W] -> spikes [T, B, C, h, w]."""

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        out_channels: int,
        spiking_steps: int,
        neuron: Neuron,
    ) -> None:
        super().__init__()
        self.spiking_steps = spiking_steps
        convs = [*halving_convs([in_channels, *widths]), nn.Conv2d(widths[-1], out_channels, 1)]
        self.layers = _spiking_layers(convs, neuron)

    def forward(self, images: Tensor) -> Tensor:
        """Return the spikes of the last layer."""
        first: SpikingLayer = self.layers[0]  # type: ignore[assignment]
        spikes = first.of_constant(images, self.spiking_steps)
        for layer in self.layers[1:]:
            spikes = layer(spikes)
        return spikes


FEATURES = {
    "paper": "share of the firing rate, rest postsynaptic potential; both normalised",
    "released": "firing rate and unnormalised membrane read-out, by a factor without bounds",
}


class SpikeFeature(nn.Module):
    """Spikes [T, B, C, h, w] -> features [B, C, h, w], by a learned mixture.

    "paper" mixes rate and potential by `sigmoid(mixture)`, "released" rate and membrane by
    `mixture` itself. Either way the mixture is even at first.
    """

    weights: Tensor

    def __init__(self, kind: str, spiking_steps: int, decay: float, tau_syn: float) -> None:
        super().__init__()
        self.bounded = kind == "paper"
        self.tau_syn = tau_syn
        self.mixture = nn.Parameter(torch.tensor(0.0 if self.bounded else 0.5))
        if not self.bounded:
            self.register_buffer("weights", decay_weights(spiking_steps, decay).float())

    def forward(self, spikes: Tensor) -> Tensor:
        """Return the features."""
        if self.bounded:
            return rate_and_potential(spikes, self.mixture.sigmoid(), self.tau_syn)
        return rate_and_membrane(spikes, self.mixture, self.weights)


class SpikeGenerator(nn.Module):
    """The adaptive spike generator (ASG): features [B, C, h, w] -> spikes [T, B, C, h, w]."""

    def __init__(self, channels: int, spiking_steps: int, neuron: Neuron) -> None:
        super().__init__()
        self.spiking_steps = spiking_steps
        self.layer = SpikingLayer(nn.Conv2d(channels, channels, 1), BatchNorm2d(channels), neuron())

    def forward(self, features: Tensor) -> Tensor:
        """Return the spikes of a neuron layer whose input is the features at every step."""
        spikes: Tensor = self.layer.of_constant(features, self.spiking_steps)
        return spikes


class SpikingDecoder(nn.Module):
    """Transposed convolutions of stride 2, one of stride 1, then the membrane read-out.

    Shape: spikes [T, B, C, h, w] -> images [B, C_out, H, W] between -1 and 1.
    """

    weights: Tensor

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        out_channels: int,
        weights: Tensor,
        neuron: Neuron,
    ) -> None:
        super().__init__()
        self.layers = _spiking_layers(doubling_convs([in_channels, *widths]), neuron)
        self.last = nn.ConvTranspose2d(widths[-1], out_channels, 3, padding=1)
        self.register_buffer("weights", weights)  # of the steps in the read-out

    def forward(self, spikes: Tensor) -> Tensor:
        r"""Return $\tanh(\sum_n w_n y[n])$ of the last currents y."""
        for layer in self.layers:
            spikes = layer(spikes)
        return elementwise(torch.tanh, weighted_sum(over_time(self.last, spikes), self.weights))


def _spiking_layers(
    convs: Sequence[nn.Conv2d | nn.ConvTranspose2d], neuron: Neuron
) -> nn.ModuleList:
    return nn.ModuleList(
        SpikingLayer(conv, BatchNorm2d(conv.out_channels), neuron()) for conv in convs
    )


# Where the gradient of the reconstruction bypasses the quantiser.
STRAIGHT_THROUGH = {
    "dense": "from the quantised feature to the feature (released code)",
    "spike": "also from the generated spikes to the encoder's (paper)",
}


@dataclass
class VQSVAEOutput(BaseOutput):
    """A reconstruction, and the terms of the loss of `vq_svae_terms`.

    Attributes:
        sample: The reconstruction [B, C, H, W], in the model's range.
        tokens: The codes [B, h, w].
        perplexity: The effective number of codes in use.
        reconstruction_loss: Mean squared error of the reconstruction.
        codebook_loss: Distance of the codes from the features, which moves the codes.
        commitment_loss: The same distance, which moves the features.
        spike_loss: MMD of the generated spikes from the encoder's, which moves the generator.
        spike_commitment_loss: The same, which moves the encoder.
    """

    sample: Tensor
    tokens: Tensor
    perplexity: Tensor
    reconstruction_loss: Tensor
    codebook_loss: Tensor
    commitment_loss: Tensor
    spike_loss: Tensor
    spike_commitment_loss: Tensor


def vq_svae_terms(
    output: VQSVAEOutput, data_variance: float | Tensor = 1.0, commitment_weight: float = 0.25
) -> dict[str, Tensor]:
    r"""Return the weighted terms of the first stage's loss, from an output in training mode.

    $\|x - \hat x\|^2 / Var(x) + \|z^Q - sg[z^E]\|^2 + \beta \|z^E - sg[z^Q]\|^2 +
    MMD(sg[s^E], s^Q) + \beta\,MMD(s^E, sg[s^Q])$, every norm a mean over its elements; z are the
    features and s the spike trains. Var(x) is the variance of all pixels of the training images in
    the model's range (0.0949 for MNIST); the released code divides by it, the paper does not: 1.

    Reference: Liu et al., arXiv 2308.10187, equation 9, and the released code.
    """
    check_number("VQSVAE: data_variance", float(data_variance), above=0)
    return {
        "reconstruction": output.reconstruction_loss / data_variance,
        "codebook": output.codebook_loss,
        "commitment": commitment_weight * output.commitment_loss,
        "spikes": output.spike_loss,
        "spike_commitment": commitment_weight * output.spike_commitment_loss,
    }


def straight_through(value: Tensor, carrier: Tensor) -> Tensor:
    """Return value, bit for bit, with a gradient that goes to the carrier instead of to it."""
    return value.detach() + (carrier - carrier.detach())


class VQSVAE(SpikingModel):
    """The first stage of Spiking-Diffusion: 50,658 parameters by default.

    Args:
        sample_size: Height and width of a pipeline's images, a number or a pair; `forward` also
            accepts other sizes divisible by `2 ** len(widths)`.
        in_channels: Channels of the image.
        widths: Channels of the layers, each of which halves the image, from the image inwards.
        codebook_size: K, the number of codes.
        embedding_channels: C, the length of a code.
        spiking_steps: T; fixed by the weights of the read-out.
        neuron: Key of `spikediff.neurons.NEURONS`.
        neuron_options: Keyword arguments of the neuron (`{"tau": 4.0, "surrogate": "sigmoid"}`).
        feature: The quantised feature of the encoder's spikes: "released" or "paper".
        straight_through: How the gradient bypasses the quantiser: "dense" (released) or "spike"
            (paper), which also bypasses the generator, so that only the MMD trains it.
        codebook: "gradient" (released) or "ema"; see `VectorQuantiser`.
        codebook_decay: Decay of the averages for "ema".
        restart_share: For "ema": the share of an even distribution below which a code is dead.
        readout_decay: Decay of the membrane read-outs.
        tau_syn: Time constant of the postsynaptic potentials in feature and loss.
        input_range: Values of black and white for the weights, within [-1, 1]. Pipelines convert;
            the model does not.

    Example:
        >>> model = VQSVAE(sample_size=8, widths=(8,), codebook_size=16, spiking_steps=4).eval()
        >>> tokens = model.encode(torch.rand(2, 1, 8, 8) - 0.5)
        >>> tokens.shape, model.decode(tokens).shape
        (torch.Size([2, 4, 4]), torch.Size([2, 1, 8, 8]))
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int | Sequence[int] = 28,
        in_channels: int = 1,
        widths: Sequence[int] = (32, 64),
        codebook_size: int = 128,
        embedding_channels: int = 16,
        spiking_steps: int = 16,
        neuron: str = "lif",
        neuron_options: Mapping[str, Any] | None = None,
        feature: str = "released",
        straight_through: str = "dense",
        codebook: str = "gradient",
        codebook_decay: float = 0.99,
        restart_share: float = 0.03,
        readout_decay: float = 0.8,
        tau_syn: float = 2.0,
        input_range: Sequence[float] = (-0.5, 0.5),
    ) -> None:
        super().__init__()
        check_positive(
            "VQSVAE",
            in_channels=in_channels,
            spiking_steps=spiking_steps,
            codebook_size=codebook_size,
            embedding_channels=embedding_channels,
        )
        check_widths("VQSVAE", widths=widths)
        check_halvings("VQSVAE", sample_size, len(widths), widths=widths)
        if len(input_range) != 2 or not -1.0 <= input_range[0] < input_range[1] <= 1.0:
            raise UserError(
                f"VQSVAE: input_range={tuple(input_range)} must be two numbers that rise within "
                f"[-1, 1]"
            )
        check_number("VQSVAE: tau_syn", tau_syn, 1)
        check_number("VQSVAE: readout_decay", readout_decay, 0, 1)
        choose("VQSVAE", FEATURES, "feature", feature)
        choose("VQSVAE", STRAIGHT_THROUGH, "straight_through", straight_through)
        make_neuron = make_neuron_maker("VQSVAE", neuron, neuron_options)
        channels, inwards = embedding_channels, tuple(widths)
        weights = decay_weights(spiking_steps, readout_decay).float()
        self.encoder = SpikingEncoder(in_channels, inwards, channels, spiking_steps, make_neuron)
        self.spike_feature = SpikeFeature(feature, spiking_steps, readout_decay, tau_syn)
        self.quantiser = VectorQuantiser(
            codebook_size, channels, codebook, codebook_decay, restart_share
        )
        self.spike_generator = SpikeGenerator(channels, spiking_steps, make_neuron)
        self.decoder = SpikingDecoder(channels, inwards[::-1], in_channels, weights, make_neuron)

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width of the grid of tokens of an image of `sample_size`."""
        size, factor = self.config.sample_size, 2 ** len(self.config.widths)
        height, width = (size, size) if isinstance(size, int) else size
        return height // factor, width // factor

    @apply_forward_hook
    def encode(self, images: Tensor) -> Tensor:
        """Return the tokens [B, h, w], 0 to K - 1, of images [B, C, H, W] in `input_range`."""
        self._check_images(images)
        tokens: Tensor = self.quantiser.nearest(self.spike_feature(self.encoder(images)))
        return tokens

    @apply_forward_hook
    def decode(self, tokens: Tensor) -> Tensor:
        """Return the images [B, C, H, W], near `input_range`, of tokens [B, h, w].

        Raises:
            UserError: A token lies outside 0 to K - 1, such as the MASK of the second stage.
        """
        size = self.config.codebook_size
        if tokens.dim() != 3 or tokens.is_floating_point():
            raise UserError(f"VQSVAE: expects tokens [B, h, w], got {tokens.dtype} {tokens.shape}")
        if tokens.min() < 0 or tokens.max() >= size:
            raise UserError(
                f"VQSVAE: tokens must lie between 0 and {size - 1}, got {int(tokens.min())} to "
                f"{int(tokens.max())}; a grid with MASK is not finished"
            )
        images: Tensor = self.decoder(self.spike_generator(self.quantiser.look_up(tokens)))
        return images

    def forward(
        self, images: Tensor, generator: torch.Generator | None = None, return_dict: bool = True
    ) -> VQSVAEOutput | tuple[Tensor, ...]:
        """Reconstruct images, with the terms of the loss; an "ema" codebook may draw."""
        self._check_images(images)
        encoded = self.encoder(images)  # [T, B, C, h, w]
        features = self.spike_feature(encoded)  # [B, C, h, w]
        quantised = self.quantiser(features, generator)
        generated = self.spike_generator(straight_through(quantised.values, features))
        spikes = generated
        if self.config.straight_through == "spike":
            spikes = straight_through(generated, encoded)
        sample = self.decoder(spikes)  # [T, B, C, h, w] -> [B, C, H, W]
        output = VQSVAEOutput(
            sample=sample,
            tokens=quantised.tokens,
            perplexity=quantised.perplexity,
            reconstruction_loss=mse_loss(sample, images),
            codebook_loss=quantised.codebook_loss,
            commitment_loss=quantised.commitment_loss,
            spike_loss=psp_mmd(generated, encoded.detach(), self.config.tau_syn),
            spike_commitment_loss=psp_mmd(generated.detach(), encoded, self.config.tau_syn),
        )
        return output if return_dict else output.to_tuple()

    if TYPE_CHECKING:
        __call__: Answering[..., VQSVAEOutput]

    def _check_images(self, images: Tensor) -> None:
        check_sample("VQSVAE", images, self.config.in_channels, 1 + len(self.config.widths))
