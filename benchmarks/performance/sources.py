"""The networks that are measured, what they see, and how often their neurons fire."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from performance.missing import Missing
from spikediff.energy import EnergyMeter
from spikediff.errors import UserError
from spikediff.hub.load import denoiser_of, load_pipeline
from spikediff.layers import ThresholdNorm
from spikediff.systems.sddpm.network import SpikingUNet

RANDOM = "RANDOM, not trained"
STEPS = 10  # of the trajectory along which firing rates are taken


@dataclass(frozen=True)
class Source:
    """A denoiser in eval mode and an input that it meets while sampling.

    Attributes:
        weights: Whose they are, for the table.
        model: The denoiser.
        sample: x_t [B, C, H, W].
        timestep: t.
        firing: Firing rate of all neurons and of every layer.
    """

    weights: str
    model: nn.Module
    sample: Tensor
    timestep: int
    firing: dict[str, Any]

    @property
    def title(self) -> str:
        """Size and kind of the weights, which name the rows."""
        config = self.model.config
        count = sum(p.numel() for p in self.model.parameters())
        size = f"{count / 1e6:.1f} M, T={config.spiking_steps}, {config.sample_size} pixels"
        kind = "random" if self.weights == RANDOM else "trained"
        return f"{size}, B={len(self.sample)}, {kind} weights"


def pipeline_at(folder: Path) -> Any:
    """Return the pipeline of a run.

    Raises:
        Missing: There is none.
    """
    try:
        pipe = load_pipeline(folder)
    except UserError as error:
        raise Missing(str(error).replace(str(folder), folder.name)) from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def trained(folder: Path, batch: int) -> Source:
    """Load a trained denoiser; it sees its own x_t of the middle of a trajectory.

    Args:
        folder: A run or a pipeline.
        batch: Images.

    Raises:
        Missing: There is no run, or no denoiser of images in it.
    """
    pipe = pipeline_at(folder)
    try:
        model = denoiser_of(pipe, Path(folder.name))
    except UserError as error:
        raise Missing(str(error)) from error
    middle: list[Tensor] = []

    def watch(_: Any, i: int, __: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
        if i == STEPS // 2 - 1:
            middle.append(state["sample"].clone())
        return {}

    with EnergyMeter(pipe) as meter:
        pipe(
            seeds=range(batch),
            num_inference_steps=STEPS,
            output_type="pt",
            callback_on_step_end=watch,
        )
    timestep = int(pipe.scheduler.timesteps[STEPS // 2])
    return Source(f"trained, {folder.name}", model, middle[0], timestep, firing_of(meter))


def random(batch: int, **config: Any) -> Source:
    """Make a denoiser of random weights; its batch norms know the statistics of one noise batch.

    Args:
        batch: Images.
        **config: Of `SpikingUNet`.
    """
    torch.manual_seed(0)
    model = SpikingUNet(**config)
    shape = (batch, model.config.in_channels, model.config.sample_size, model.config.sample_size)
    sample = torch.randn(shape)
    settle_norms(model, sample, 500)
    with EnergyMeter(model) as meter, torch.no_grad():
        model(sample, 500)
    return Source(RANDOM, model, sample, 500, firing_of(meter))


def settle_norms(model: nn.Module, *inputs: Any) -> None:
    """Give batch norms the statistics of a batch: fresh ones leave currents as large as they are.

    Args:
        model: The network; it is left in eval mode.
        *inputs: Of a call.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | ThresholdNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(*inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def firing_of(meter: EnergyMeter) -> dict[str, Any]:
    """Return what a meter saw of firing: over all neurons, and the share of the dense operations.

    `operations` is what an event-driven synapse has left to do: accumulates and multiplications
    over those of dense convolutions.
    """
    report = meter.report("strict")
    return {
        "neurons": report.firing_rate,
        "operations": (report.acs + report.macs) / report.dense_macs,
        "layers": report.firing_rates,
    }
