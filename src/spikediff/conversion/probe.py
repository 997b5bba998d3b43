"""Where conversion loses: the error of every layer of a spiking network."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from spikediff.conversion.blocks import outputs
from spikediff.models.converted import ConvertedUNet, QuantisedUNet


@dataclass(frozen=True)
class LayerError:
    r"""The error of a layer or block.

    Attributes:
        layer: Its name in the U-Net.
        error: $\|\bar o_{SNN} - o_{ANN}\| / \|o_{ANN}\|$, of the time-averaged output.
    """

    layer: str
    error: float


def probe(
    converted: ConvertedUNet, quantised: QuantisedUNet, sample: Tensor, timestep: Tensor
) -> list[LayerError]:
    """Compare a spiking network with the one that it was converted from, layer by layer.

    Errors add up along the way: a layer's holds what the layers before it contributed.

    Args:
        converted: The spiking network.
        quantised: The network that it was converted from.
        sample: Noisy images x_t [B, C, H, W].
        timestep: Diffusion timesteps t [B].

    Returns:
        One entry for every synapse and block in the order of running; the last, `conv_out`, is the
        estimate itself.
    """
    spiking = outputs(converted, sample, timestep)
    ordinary = outputs(quantised, sample, timestep)
    return [LayerError(name, relative_error(spiking[name], o)) for name, o in ordinary.items()]


def relative_error(value: Tensor, reference: Tensor) -> float:
    """Return the L2 norm of the difference over that of the reference.

    Example:
        >>> import torch
        >>> relative_error(torch.tensor([3.0, 6.5]), torch.tensor([3.0, 4.0]))
        0.5
    """
    return float((value - reference).norm() / reference.norm().clamp(min=1e-12))


def plot_conversion_errors(errors: dict[str, list[LayerError]], path: Path) -> None:
    """Draw the errors of one or several conversions, one curve each, over the depth.

    Args:
        errors: By the label of the curve; all of the same network.
        path: Where the picture goes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [entry.layer for entry in next(iter(errors.values()))]
    figure = Figure(figsize=(7, max(3.0, 0.16 * len(names))), layout="constrained")
    axes = figure.add_subplot(xlabel="relative error of the time-averaged output")
    for label, entries in errors.items():
        axes.plot([entry.error for entry in entries], range(len(names)), marker=".", label=label)
    axes.set_yticks(range(len(names)), names, fontsize=6)
    axes.invert_yaxis()
    axes.set_xlim(left=0.0)
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(path))
