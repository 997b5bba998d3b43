"""Shared by all edits: the loop over a denoiser's steps, and the kind of pipeline."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from spikediff.diffusion.classes import ClassLabels, conditioned
from spikediff.diffusion.loop import (
    AfterStep,
    StepCallback,
    denoise,
    estimates_of,
    space_of,
    telling,
)
from spikediff.errors import UserError, kind_of


class Asked(NamedTuple):
    """Arguments of every edit: classes and a callback, as for `SpikingDiffusionPipeline`."""

    class_labels: ClassLabels
    guidance_scale: float | None
    callback_on_step_end: StepCallback | None
    callback_on_step_end_tensor_inputs: Sequence[str] | None


class Denoising:
    """A pipeline's network (`unet`), set up to denoise the samples of one edit."""

    def __init__(self, pipe: Any, batch_size: int, asked: Asked) -> None:
        labels, guidance_scale, callback, shown = asked
        unet = pipe.unet
        self.pipe, self.space = pipe, space_of(unet)
        self.denoiser = conditioned(
            estimates_of(unet), unet, labels, guidance_scale, batch_size, self.space.batch_axis
        )
        self.tell = telling(pipe, callback, self.space.seen, shown, guidance_scale)

    def run(
        self,
        scheduler: Any,
        sample: Tensor,
        timesteps: Iterable[Tensor],
        options: Mapping[str, Any],
        after_step: AfterStep | None = None,
    ) -> Tensor:
        """Denoise a sample; return its images [B, C, H, W] in [-1, 1]. See `denoise`."""
        sample = denoise(
            self.denoiser,
            scheduler,
            sample,
            self.pipe.progress_bar(timesteps),
            options,
            after_step or self.tell,
            lambda: bool(self.pipe._interrupt),
        )
        return self.space.decode(sample)


@runtime_checkable
class EditsTokens(Protocol):
    """A pipeline of tokens."""

    def redraw(self, tokens: Tensor, mask: Tensor, **call: Any) -> Tensor:
        """Draw the masked tokens again; return the images [B, C, H, W] in [-1, 1]."""


def edits_tokens(pipe: Any) -> bool:
    """Return whether a pipeline generates tokens; refuse one without diffusion."""
    if isinstance(pipe, EditsTokens):
        return True
    check_denoises(pipe, " or Spiking-Diffusion")
    return False


def check_denoises(pipe: Any, or_else: str = "") -> None:
    """Refuse a pipeline without a denoiser of images or currents."""
    if "unet" not in pipe.components:
        raise UserError(
            f"{kind_of(pipe)} has no diffusion, which this needs; use a run of the "
            f"integer system, SDDPM, SDM, FSDDIM, DDPM{or_else}"
        )


def refuse_options(pipe: Any, **given: bool) -> None:
    """Refuse the options that are given but belong to the other kind of pipeline."""
    for name in (name for name, is_given in given.items() if is_given):
        raise UserError(f"{name}: {kind_of(pipe)} has none; omit it")
