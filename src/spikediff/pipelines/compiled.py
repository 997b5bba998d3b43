"""What all pipelines share: their networks in event-driven form."""

from typing import Any, Self

from torch import nn

from spikediff.errors import UserError
from spikediff.events import Precision, compile_for_inference


class CompiledInference:
    """A pipeline that can run event by event; it stands before `DiffusionPipeline` in the bases.

    Example:
        >>> from spikediff.models import SpikingUNet
        >>> from spikediff.pipelines import SpikingDiffusionPipeline
        >>> from spikediff.schedulers import make_scheduler
        >>> unet = SpikingUNet(sample_size=8, in_channels=1, base_channels=8, channel_mult=(1, 2))
        >>> pipe = SpikingDiffusionPipeline(unet.eval(), make_scheduler("ddim"))
        >>> pipe = pipe.compile_for_inference()
        >>> pipe.set_progress_bar_config(disable=True)
        >>> pipe(num_inference_steps=2, seeds=[0]).images[0].size
        (8, 8)
        >>> pipe.event_driven
        True
    """

    components: dict[str, Any]

    @property
    def event_driven(self) -> bool:
        """Whether a network of the pipeline is in its event-driven form."""
        return any(getattr(part, "event_driven", False) for part in self.components.values())

    @property
    def event_weights(self) -> Precision | None:
        """Precision of the weights that spikes meet; None where nothing is rounded otherwise."""
        found = (getattr(part, "event_weights", None) for part in self.components.values())
        return next((precision for precision in found if precision), None)

    def compile_for_inference(self, weights: Precision = "float32") -> Self:
        """Replace the networks by their event-driven form (`spikediff.events`).

        The networks that were handed in stay as they are; the pipeline goes on with copies.
        Rounding differs from theirs, and with it a seed's image now and then; but a deployment form
        of whole numbers gives the same bits.

        Args:
            weights: "float32", or rounded to whole numbers: "int16", "int8".

        Returns:
            The pipeline itself.

        Raises:
            UserError: A network is not on the CPU, or not float32; or the weights are not to be
                had (`spikediff.events.compile_for_inference`).
        """
        compiled = {
            name: compile_for_inference(part, weights)
            for name, part in self.components.items()
            if isinstance(part, nn.Module)
        }
        for name, network in compiled.items():
            setattr(self, name, network)
        return self

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Save the pipeline as diffusers does.

        Raises:
            UserError: It is compiled.
        """
        if self.event_driven:
            raise UserError(
                f"{type(self).__name__}: compiled for inference; save the pipeline before that"
            )
        super().save_pretrained(*args, **kwargs)  # type: ignore[misc]
