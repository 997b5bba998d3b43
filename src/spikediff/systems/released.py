"""The checkpoints that the authors of the published systems released, as networks and pipelines."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from spikediff.errors import UserError, brief, check_known
from spikediff.files.weights import find_state_dict, read_foreign_weights
from spikediff.systems import SYSTEMS, Released, load_system

Source = str | Path | Mapping[str, Any]

_PLACES = ("ema_model", "net_model", "model", "model_state_dict", "state_dict")


def released_checkpoints() -> dict[str, Released]:
    """Return the kinds of released checkpoints by name: "sddpm", "sdm", "sdm-converted", ...

    If the keys of one kind contain those of another, it comes first.
    """
    return {name: kind for system in SYSTEMS for name, kind in load_system(system).released.items()}


def likely_system(keys: Iterable[str]) -> str | None:
    """Return the kind of checkpoint whose state dict has such keys; None if there is none.

    Example:
        >>> likely_system(["bn.weight", "conv_identity.weight"])
        'sddpm'
        >>> likely_system(["fc.weight"]) is None
        True
    """
    known = set(keys)
    kinds = released_checkpoints().items()
    return next((name for name, kind in kinds if known & set(kind.telltales)), None)


def load_authors_checkpoint(
    path_or_state_dict: Source,
    system: str,
    spiking_steps: int | None = None,
    sample_size: int | None = None,
    residual_alpha: float | None = None,
) -> ModelMixin:
    """Build our model from a checkpoint of the authors' code.

    Sizes are inferred from the weights; arguments give what cannot be inferred.

    Args:
        path_or_state_dict: A file (`.pt` through `weights_only=True`, or `.safetensors`), a
            training checkpoint `{"net_model": ...}` (its averaged weights `"ema_model"` if it has
            them), or the state dict itself.
        system: The kind of checkpoint, a key of `released_checkpoints()`.
        spiking_steps: T of the training run, by default that of the release: 4; 16 for
            "spiking-diffusion-decoder"; 3 (for 2 bits) for "sdm-converted". Ignored if the weights
            determine it ("sdm", "spiking-diffusion", "fsvae").
        sample_size: Image size of a pipeline, by default that of the release: 32, or 28 for
            "spiking-diffusion". "spiking-diffusion-decoder" has none.
        residual_alpha: Only for "fsddim", 1.0 by default; see `load_fsddim`.

    Returns:
        The model, in eval mode.

    Raises:
        UserError: The system is unknown or has no `residual_alpha`, the file is unreadable, or keys
            do not fit; the message lists the first of them, and the system that they look like.
    """
    kind = _find(system)
    content = read_foreign_weights(path_or_state_dict)
    where = "state dict" if isinstance(path_or_state_dict, Mapping) else str(path_or_state_dict)
    state = find_state_dict(content, _PLACES, where)
    options: dict[str, Any] = {
        "spiking_steps": kind.spiking_steps if spiking_steps is None else spiking_steps,
        "sample_size": kind.sample_size if sample_size is None else sample_size,
    }
    if residual_alpha is not None:
        if "residual_alpha" not in kind.options:
            raise UserError(f"residual_alpha = {residual_alpha}: {system!r} has none; omit it")
        options["residual_alpha"] = residual_alpha
    try:
        return kind.load(state, **options).eval()
    except UserError as error:
        likely = likely_system(state)
        if likely is None or set(state) & set(kind.telltales):
            raise
        raise UserError(f"{error}; its keys look like system {likely!r}") from error
    except (IndexError, TypeError, ValueError) as error:
        raise UserError(f"{where}: does not fit {system!r} ({brief(error)})") from error


def _find(system: str) -> Released:
    kinds = released_checkpoints()
    check_known("system", system, kinds)
    return kinds[system]


def load_authors_pipeline(
    checkpoint: Source,
    system: str,
    spiking_steps: int | None = None,
    sample_size: int | None = None,
    residual_alpha: float | None = None,
    first_stage: Source | None = None,
) -> DiffusionPipeline:
    """Make a pipeline from an authors' checkpoint, in eval mode, with its training scheduler.

    The arguments are those of `load_authors_checkpoint`. "spiking-diffusion-decoder" also needs
    `first_stage`: the checkpoint of the VQ-SVAE on whose tokens it was trained. The VQ-SVAE alone
    only reconstructs images.

    Raises:
        UserError: As `load_authors_checkpoint`; or a first stage is missing, not needed, or has
            another codebook.
    """
    kind = _find(system)
    if kind.first_stage is None:
        if first_stage is not None:
            raise UserError(f"{system}: has one stage; omit the first stage")
        model = load_authors_checkpoint(
            checkpoint, system, spiking_steps, sample_size, residual_alpha
        )
        return kind.pipeline(model)
    if first_stage is None:
        raise UserError(
            f"{system}: generates tokens, which the first stage decodes into images; give the "
            f"authors' checkpoint of the VQ-SVAE as the first stage"
        )
    model = load_authors_checkpoint(checkpoint, system, spiking_steps, None, residual_alpha)
    first = load_authors_checkpoint(first_stage, kind.first_stage, sample_size=sample_size)
    return kind.pipeline(first, model)
