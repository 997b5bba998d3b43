"""What every pipeline of this library is, and the names of what a result was measured on."""

from typing import Any, Self

from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import nn

from spikediff.diffusion.saving import PortablePipeline
from spikediff.errors import UserError
from spikediff.events import Precision, compile_for_inference
from spikediff.files.tensors import state_digest


def weights_sha256(pipe: Any) -> str:
    """Return the SHA-256 of the weights of all networks of a pipeline.

    Example:
        >>> from spikediff import VAE
        >>> from spikediff.diffusion.autoencoder_pipeline import VAEPipeline
        >>> pipe = VAEPipeline(VAE(8, 1, channels=(4, 8), latent_channels=6))
        >>> before = weights_sha256(pipe)
        >>> next(pipe.vae.parameters()).data += 1.0
        >>> weights_sha256(pipe) == before
        False
    """
    networks = {k: v for k, v in pipe.components.items() if isinstance(v, nn.Module)}
    return state_digest(
        {f"{k}.{n}": tensor for k, m in networks.items() for n, tensor in m.state_dict().items()}
    )


def scheduler_name(pipe: Any) -> str | None:
    """Return the class of a pipeline's scheduler; None where it has none."""
    scheduler = pipe.components.get("scheduler")
    return None if scheduler is None else type(scheduler).__name__


class OwnPipeline(PortablePipeline, DiffusionPipeline):
    """A diffusers pipeline: portable, made of another's parts, event-driven where asked for.

    Example:
        >>> from spikediff import SpikingUNet
        >>> from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
        >>> from spikediff import SpikingInpaintPipeline, make_scheduler
        >>> unet = SpikingUNet(sample_size=8, in_channels=1, base_channels=8, channel_mult=(1, 2))
        >>> pipe = SpikingDiffusionPipeline(unet.eval(), make_scheduler("ddim"))
        >>> SpikingInpaintPipeline.from_pipe(pipe).unet is unet
        True
        >>> pipe = pipe.compile_for_inference()
        >>> pipe.set_progress_bar_config(disable=True)
        >>> pipe(num_inference_steps=2, seeds=[0]).images[0].size
        (8, 8)
        >>> pipe.event_driven
        True
    """

    components: dict[str, Any]

    @classmethod
    def from_pipe(cls, pipeline: Any, **parts: Any) -> Self:
        """Return a pipeline of the parts of another one, shared and not copied.

        Args:
            pipeline: Any whose components have the names of this one's.
            parts: Components to take instead of the other pipeline's.

        Raises:
            UserError: The other pipeline generates in another way.
        """
        needed, optional = cls._get_signature_keys(cls)
        # The configuration holds what is no part, such as the range of signals.
        settings = {name: pipeline.config[name] for name in optional if name in pipeline.config}
        found = {**settings, **pipeline.components, **parts}
        if missing := sorted(set(needed) - set(found)):
            raise UserError(
                f"{cls.__name__}: a {type(pipeline).__name__} has no {' and no '.join(missing)}"
            )
        return cls(**{name: found[name] for name in (*needed, *optional) if name in found})

    @property
    def event_driven(self) -> bool:
        """Whether a network of the pipeline is in its event-driven form."""
        return any(getattr(part, "event_driven", False) for part in self.components.values())

    @property
    def event_weights(self) -> Precision | None:
        """Precision of the weights that spikes meet; None where nothing is rounded."""
        found = (getattr(part, "event_weights", None) for part in self.components.values())
        return next((precision for precision in found if precision), None)

    def compile_for_inference(self, weights: Precision = "float32") -> Self:
        """Replace the networks by copies in event-driven form; return the pipeline itself.

        Rounding differs, and with it a seed's image now and then; a deployment form of whole
        numbers gives the same bits.

        Args:
            weights: "float32", or rounded to whole numbers: "int16", "int8".

        Raises:
            UserError: See `spikediff.compile_for_inference`.
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
            UserError: It is compiled; or see `PortablePipeline.save_pretrained`.
        """
        if self.event_driven:
            raise UserError(
                f"{type(self).__name__}: compiled for inference; save the pipeline before that"
            )
        super().save_pretrained(*args, **kwargs)
