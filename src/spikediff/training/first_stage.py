"""Two-stage training: the second stage generates the tokens of an autoencoder trained first."""

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from spikediff.data import ImageDataset, change_range, to_model_range
from spikediff.diffusion.saving import AnyNetwork
from spikediff.errors import UserError, kind_of
from spikediff.files.tensors import read_with_metadata, state_digest, write_tensors
from spikediff.progress import at_work
from spikediff.systems import find_trainable
from spikediff.training.batches import image_dataset
from spikediff.training.computation import device_kind
from spikediff.training.recipe import Recipe, load_run_recipe, with_shape_of

_TOKENS = "tokens.safetensors"
_BATCH = 250  # images encoded at a time

_log = logging.getLogger("spikediff")


def first_stage_folder(recipe: Recipe, root: Path) -> Path:
    """Return the first stage's run folder: the one named by the recipe, or one beside `root`."""
    named = Path(recipe.first_stage) if recipe.first_stage else None
    if named is not None and (named / "recipe.yaml").is_file():
        return named
    root = root if root.name.strip(".") else root.resolve()  # "." and ".." name no folder
    return root.with_name(f"{root.name}-first-stage")


def check_second_stage(recipe: Recipe) -> None:
    """Refuse a first stage of a network without tokens, and to mirror tokens."""
    network = recipe.model.network
    if find_trainable(network).items != "tokens":
        raise UserError(f"first_stage = {recipe.first_stage}: {network} needs none; omit it")
    if recipe.data.horizontal_flip:
        raise UserError("data.horizontal_flip: grids of tokens cannot be mirrored; omit it")


def like_first_stage(recipe: Recipe, root: Path) -> Recipe:
    """Return a second stage with the size and channels of the first stage's images."""
    if recipe.first_stage:
        check_second_stage(recipe)
    if find_trainable(recipe.model.network).items != "tokens":
        return recipe
    folder = first_stage_folder(recipe, root)
    there = (folder / "recipe.yaml").is_file()
    return with_shape_of(recipe, load_run_recipe(folder)) if there else recipe


def is_finished(folder: Path) -> bool:
    """Return whether a run folder has a trained first stage that can be loaded."""
    try:
        AnyNetwork.from_pretrained(str(folder / "pipeline" / "vae"), use_safetensors=True)
    except (OSError, ValueError):  # a part is missing: writing was interrupted
        return False
    return True


def load_first_stage(recipe: Recipe, root: Path) -> Any:
    """Return the trained autoencoder that a second stage needs, frozen and in eval mode.

    It must have been trained on the same images as in the recipe.
    """
    folder = first_stage_folder(recipe, root)
    weights = folder / "pipeline" / "vae"
    if not (weights / "config.json").is_file():
        raise UserError(f"{folder}: has no finished first stage; `spikediff train` makes both")
    theirs, ours = load_run_recipe(folder).data, recipe.data
    for key in ("dataset", "image_size", "channels", "resize_filter", "hold_out"):
        if getattr(theirs, key) != getattr(ours, key):
            raise UserError(
                f"{folder}: was trained with data.{key} = {getattr(theirs, key)}, the recipe has "
                f"{getattr(ours, key)}; both stages see the same images"
            )
    model: Any = AnyNetwork.from_pretrained(str(weights), use_safetensors=True)
    if "codebook_size" not in model.config:
        raise UserError(f"{folder}: holds {kind_of(model)}, which produces no tokens")
    return model.eval().requires_grad_(False)


def token_dataset(recipe: Recipe, root: Path) -> "TokenDataset":
    """Return the tokens of the training images, stored in the first stage's folder.

    Stored tokens must come from this first stage and these images.
    """
    check_second_stage(recipe)
    images = image_dataset(recipe.data)
    vqvae = load_first_stage(recipe, root)
    source = {
        "first_stage": state_digest(vqvae.state_dict()),
        "images": f"{images.name} {images.split} {len(images)}",
    }
    path = first_stage_folder(recipe, root) / _TOKENS
    size = vqvae.config.codebook_size
    kept = read_with_metadata(path)
    if kept is None:
        _log.info("encoding %d images", len(images))
        tokens = encode_all(vqvae.to(device_kind()), images)
        write_tensors(path, {"tokens": tokens}, source)
        return TokenDataset(tokens, images, size)
    tensors, metadata = kept
    for name, value in source.items():
        if metadata.get(name) != value:
            what = name.replace("_", " ")
            raise UserError(f"{path}: has tokens of another {what}; delete the file")
    _check_tokens(tensors.get("tokens"), (len(images), *vqvae.latent_size), size, path)
    return TokenDataset(tensors["tokens"], images, size)


@torch.no_grad()
def encode_all(vqvae: Any, images: ImageDataset) -> Tensor:
    """Return the tokens of all images, int16 [N, h, w]; the autoencoder is in eval mode."""
    parts = []
    with at_work("encoding images as tokens", len(images)) as work:
        for first in range(0, len(images), _BATCH):
            chosen = range(first, min(first + _BATCH, len(images)))
            pixels = torch.stack([images[i][0] for i in chosen])
            x = change_range(to_model_range(pixels), new=vqvae.config.input_range)
            parts.append(vqvae.encode(x.to(vqvae.device)).to("cpu", torch.int16))
            work.advance(len(chosen))
    return torch.cat(parts)


def _check_tokens(
    tokens: Tensor | None, shape: tuple[int, ...], codebook_size: int, path: Path
) -> None:
    """Refuse stored tokens unless they are one grid of codes per image."""
    if tokens is None or tokens.shape != shape or tokens.dtype != torch.int16:
        raise UserError(f"{path}: holds no tokens int16 {list(shape)}; delete the file")
    if tokens.min() < 0 or tokens.max() >= codebook_size:
        last = codebook_size - 1
        raise UserError(f"{path}: contains tokens outside 0 to {last}; delete the file")


class TokenDataset(Dataset[tuple[Tensor, int]]):
    """The tokens [N, h, w] of a data set: item i is `(int16 [1, h, w], label)`.

    The mask token equals the size of the codebook.
    """

    def __init__(self, tokens: Tensor, images: ImageDataset, mask_token: int) -> None:
        self.tokens = tokens[:, None]
        self.images = images
        self.mask_token = mask_token
        self.image_size = tokens.shape[1]
        self.channels = 1
        self.name = images.name
        self.num_classes, self.class_names = images.num_classes, images.class_names

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        label = -1 if self.images.labels is None else int(self.images.labels[index])
        return self.tokens[index], label
