"""Telling by its keys which system a state dict is of, for whoever named another one."""

from collections.abc import Iterable

# A key that only the network of one system has; the first that is there decides.
_TELLTALES = {
    "conv.tsmp": "sdm",
    "conv_identity.weight": "sddpm",
    "tail.1.act_alpha": "sdm-converted",
    "tail.block.1.act_alpha": "sdm-converted",
    "mid_block1.conv1.weight": "fsddim",
    "vq_layer.embeddings.weight": "spiking-diffusion",
    "conv2.0.weight": "spiking-diffusion-decoder",
    "before_latent_layer.weight": "fsvae",
}
# Systems whose state dicts are the same tensors.
_ALIKE = {"sdm-quantised": "sdm-converted"}


def likely_system(keys: Iterable[str]) -> str | None:
    """Return the system whose network has keys like these; None where no system has.

    Args:
        keys: The keys of a state dict of an authors' network.

    Example:
        >>> likely_system(["bn.weight", "conv_identity.weight"])
        'sddpm'
        >>> likely_system(["fc.weight"]) is None
        True
    """
    known = set(keys)
    return next((system for key, system in _TELLTALES.items() if key in known), None)


def wrong_system_hint(keys: Iterable[str], system: str) -> str:
    """Return what to add to an error where the keys are those of another system; else nothing.

    Args:
        keys: The keys of the state dict.
        system: The system that was named.

    Example:
        >>> wrong_system_hint(["conv.tsmp"], "fsvae")
        "; its keys look like system 'sdm'"
        >>> wrong_system_hint(["tail.1.act_alpha"], "sdm-quantised")
        ''
    """
    likely = likely_system(keys)
    same = likely is None or likely == _ALIKE.get(system, system)
    return "" if same else f"; its keys look like system {likely!r}"
