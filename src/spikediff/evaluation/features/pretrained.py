"""Networks of other libraries: any model of `timm`, and the FID's Inception v3 of `torch-fidelity`.

Both need the extra `metrics`. timm's weights come from its cache, the hub or a file. Images are
resized without cropping, to the side and with the filter of the network's data configuration, and
normalised by its mean and deviation. Inception has 2,048 pooled features. It resizes images as
TensorFlow 1 did, and its weights come from a file.

Reference:
    Stein et al. 2023, "Exposing flaws of generative model evaluation metrics and their unfair
    treatment of diffusion models" (why DINOv2); Oquab et al. 2023, "DINOv2"; Heusel et al. 2017
    (Inception); Obukhov et al. 2020, torch-fidelity (`feature_extractor_weights_path`).
"""

import importlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spikediff.data import RESIZE_FILTERS
from spikediff.errors import UserError, install_command, one_line, suggestion
from spikediff.evaluation.features.network import FeatureNetwork, Normalise
from spikediff.files.tensors import check_finite
from spikediff.files.weights import read_state_dict

PREFIX = "timm:"
DINOV2 = "vit_small_patch14_dinov2.lvd142m"
_DINOV2_SIDE = 224  # 16 x 16 patches, the usual choice for distances; timm's default is 518


def load_pretrained(
    name: str, weights: Path | str | None = None, device: torch.device | str = "cpu"
) -> FeatureNetwork:
    """Load `dinov2` or `timm:MODEL`; its features are the input of timm's classification layer.

    Without a file, the weights come from timm's cache or are downloaded.
    """
    timm = _import(name, "timm")
    _import(name, "timm.data")
    model_name, options = name.removeprefix(PREFIX), {}
    if name == "dinov2":
        model_name, options = DINOV2, {"img_size": _DINOV2_SIDE}
    _check_known(timm, name, model_name)
    published = timm.get_pretrained_cfg(model_name)
    # timm would unpickle a file, so pass it only the output of the safe reader.
    given = {} if weights is None else {"state_dict": read_state_dict(Path(weights))}
    try:
        module = timm.create_model(
            model_name, pretrained=True, pretrained_cfg_overlay=given, **options
        )
    except Exception as error:  # from timm, the hub or the network
        if weights is None:
            raise UserError(
                f"{name}: its weights are neither in timm's cache nor to be fetched "
                f"({one_line(error, 160)}); give --feature-weights with {_source(published)}"
            ) from error
        raise UserError(
            f"{weights}: not the weights of {model_name} ({one_line(error, 200)})"
        ) from error
    module.reset_classifier(0)
    module.pretrained_cfg = {}  # it holds a second copy of the weights
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
    """Refuse a name that timm does not have; the name may include the tag of its weights."""
    plain = model_name.partition(".")[0]
    if not timm.is_model(plain):
        raise UserError(f"{name}: timm has no such model; {suggestion(plain, timm.list_models())}")


def _source(published: Any) -> str:
    """Return the file that holds a model's weights, and where to get it, in words."""
    file = published.hf_hub_filename or "model.safetensors"
    if published.hf_hub_id:
        return f"the file {file} of https://huggingface.co/{published.hf_hub_id}"
    if published.url:
        return f"the file {published.url}"
    return "a file of your own: timm publishes none"


NATIVE_SIZE = 299
LAYERS = ("2048", "logits_unbiased")  # torch-fidelity's names; its own score takes these logits


class InceptionFeatures(nn.Module):
    """torch-fidelity's extractor as a module: uint8 [B, 3, H, W] -> ([B, 2048], [B, 1008])."""

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and logits; the extractor resizes to 299x299."""
        features, logits = self.extractor(images)
        return features, logits


def as_stored(images: Tensor) -> Tensor:
    """Return the uint8 images unchanged: torch-fidelity normalises them."""
    return images


def load_inception(
    path: Path | str, image_size: int = NATIVE_SIZE, device: torch.device | str = "cpu"
) -> FeatureNetwork:
    """Load Inception v3 with torch-fidelity's weights, `weights-inception-2015-12-05-6726825d.pth`.

    A safetensors file of the same tensors also works. The network resizes images of `image_size`
    to 299.
    """
    library = _import("inception", "torch_fidelity.feature_extractor_inceptionv3")
    state = read_state_dict(Path(path))
    with tempfile.TemporaryDirectory() as folder:
        # torch-fidelity unpickles its file, so pass it only the output of the safe reader.
        safe = Path(folder) / "inception.pth"
        torch.save(state, safe)
        try:
            extractor = library.FeatureExtractorInceptionV3(
                "inception-v3-compat", list(LAYERS), feature_extractor_weights_path=str(safe)
            )
        except RuntimeError as error:  # load_state_dict lists every key; keep the first line
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}: not the weights of Inception v3 ({reason})") from error
    return FeatureNetwork(
        InceptionFeatures(extractor),
        name="inception",
        image_size=image_size,
        channels=3,
        normalise=as_stored,
        device=device,
    )


def _import(name: str, module: str) -> Any:
    """Import a module of the extra `metrics`, for the feature network `name`."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = f"{error.name} is not installed; {install_command('metrics')}"
        raise UserError(f"{name}: {missing}") from error
    except (ImportError, RuntimeError) as error:  # torchvision and torch of different builds
        library = module.partition(".")[0].replace("_", "-")
        raise UserError(
            f"{name}: {library} does not import ({one_line(error, 160)}); torch and torchvision "
            f"must be of one release: {install_command('metrics')}"
        ) from error
