"""Networks of the library `timm` as feature networks: no labels of your images are needed.

The weights come from timm's cache or the hub, or from a file. Images are resized as the network's
data configuration says (side and filter), whole and without its crop, and normalised by its mean
and deviation.

Reference:
    Stein et al. 2023, "Exposing flaws of generative model evaluation metrics and their unfair
    treatment of diffusion models" (why DINOv2); Oquab et al. 2023, "DINOv2".
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from spikediff.data import RESIZE_FILTERS
from spikediff.errors import UserError, one_line, suggestion
from spikediff.evaluation.features.network import FeatureNetwork, Normalise, import_library
from spikediff.files.tensors import check_finite
from spikediff.files.weights import read_state_dict

PREFIX = "timm:"
DINOV2 = "vit_small_patch14_dinov2.lvd142m"
_DINOV2_SIDE = 224  # 16 x 16 patches, as is usual for distances; timm's default is 518


def load_pretrained(
    name: str, weights: Path | str | None = None, device: torch.device | str = "cpu"
) -> FeatureNetwork:
    """Load a feature network of timm; its features are the input of its last, classifying layer.

    Args:
        name: `dinov2`, or `timm:MODEL`.
        weights: A file of weights; None takes them from timm's cache or fetches them.
        device: Where the network runs.

    Raises:
        UserError: timm is not installed or has no such model; the weights cannot be fetched, or the
            file holds others.
    """
    timm = import_library(name, "timm")
    import_library(name, "timm.data")
    model_name, options = name.removeprefix(PREFIX), {}
    if name == "dinov2":
        model_name, options = DINOV2, {"img_size": _DINOV2_SIDE}
    _check_known(timm, name, model_name)
    published = timm.get_pretrained_cfg(model_name)
    # timm would unpickle a file: hand it only what the safe reader passed.
    given = {} if weights is None else {"state_dict": read_state_dict(Path(weights))}
    try:
        module = timm.create_model(
            model_name, pretrained=True, pretrained_cfg_overlay=given, **options
        )
    except Exception as error:  # of timm, of the hub, of the network
        if weights is None:
            raise UserError(
                f"{name}: its weights are neither in timm's cache nor to be fetched "
                f"({one_line(error, 160)}); give --feature-weights with {_source(published)}"
            ) from error
        raise UserError(
            f"{weights}: not the weights of {model_name} ({one_line(error, 200)})"
        ) from error
    module.reset_classifier(0)
    module.pretrained_cfg = {}  # it holds the weights once more
    check_finite(module.state_dict(), f"{name}: its weights")
    config = timm.data.resolve_data_config(options, pretrained_cfg=published.to_dict())
    return _as_features(name, module, config, options.get("img_size"), device)


def _as_features(
    name: str,
    module: torch.nn.Module,
    config: Mapping[str, Any],
    side: int | None,
    device: torch.device | str,
) -> FeatureNetwork:
    (channels, height, width), filter_name = config["input_size"], str(config["interpolation"])
    if channels != 3 or height != width:
        raise UserError(f"{name}: takes images of {config['input_size']}; choose one of squares")
    return FeatureNetwork(
        module,
        name=name,
        image_size=side or height,
        channels=3,
        normalise=Normalise(tuple(config["mean"]), tuple(config["std"])),
        # "random" leaves the choice open.
        resize_filter=filter_name if filter_name in RESIZE_FILTERS else "bicubic",
        device=device,
    )


def _check_known(timm: Any, name: str, model_name: str) -> None:
    """Refuse a name that timm has no model for; the name may carry the tag of its weights."""
    plain = model_name.partition(".")[0]
    if not timm.is_model(plain):
        raise UserError(f"{name}: timm has no such model; {suggestion(plain, timm.list_models())}")


def _source(published: Any) -> str:
    """Say which file holds a model's weights, and where to get it."""
    file = published.hf_hub_filename or "model.safetensors"
    if published.hf_hub_id:
        return f"the file {file} of https://huggingface.co/{published.hf_hub_id}"
    if published.url:
        return f"the file {published.url}"
    return "a file of your own: timm publishes none"
