"""What a result was measured on: the name of the weights, and of the sampler."""

from typing import Any

from torch import nn

from spikediff.tensor_file import state_digest


def weights_sha256(pipe: Any) -> str:
    """Return the SHA-256 of the weights of all networks of a pipeline.

    Args:
        pipe: A diffusers pipeline.

    Example:
        >>> from spikediff.models import VAE
        >>> from spikediff.pipelines import VAEPipeline
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
