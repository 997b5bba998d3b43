"""A small classifier, trained on the data set itself, so that no weights need to be downloaded.

Its penultimate layer gives the features, its softmax the probabilities for the Inception score. It
is trained on nine tenths of the training split; its accuracy on the other tenth indicates how
reliable the features are. The same data, seed, machine and number of threads give the same bits.
"""

import hashlib
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikediff.data import ImageDataset, random_flip, to_model_range
from spikediff.data.dataset import part_indices
from spikediff.errors import UserError
from spikediff.evaluation.features.network import FeatureNetwork
from spikediff.files.tensors import read_tensors, state_digest, write_tensors
from spikediff.progress import at_work

FEATURES_LENGTH = 128
MIN_SIZE = 8  # pixels; two strides leave 2x2
WIDTHS = (32, 64, 64)
GRID = 2  # the last feature map is averaged to 2x2, so any image size fits
EVAL_BATCH = 512
_ACCURACY = "held_out_accuracy"  # stored with the weights


@dataclass(frozen=True)
class TrainingSettings:
    """Training settings of the classifier; part of the key of a stored one."""

    seed: int = 0  # seed of the initial weights, the order of the images and the shifts
    steps: int = 1000  # optimizer steps
    batch_size: int = 128  # images per step
    learning_rate: float = 8e-3  # peak of Adam's one-cycle schedule
    shift: float = 0.07  # largest shift of an image, as a share of its side


class SmallClassifier(nn.Module):
    """Three convolutions and two linear layers: images -> (features [B, 128], logits [B, K])."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *_convolution(channels, WIDTHS[0], kernel=5, stride=2),
            *_convolution(WIDTHS[0], WIDTHS[1], kernel=3, stride=2),
            *_convolution(WIDTHS[1], WIDTHS[2], kernel=3, stride=1),
            nn.AdaptiveAvgPool2d(GRID),
        )
        self.penultimate = nn.Linear(WIDTHS[2] * GRID * GRID, FEATURES_LENGTH)
        self.classify = nn.Linear(FEATURES_LENGTH, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [B, 128] and logits [B, K] of images [B, C, H, W] in [-1, 1]."""
        h = self.convolutions(images).flatten(1)
        features = F.relu(self.penultimate(h))
        return features, self.classify(features)


def _convolution(c_in: int, c_out: int, *, kernel: int, stride: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False)
    return convolution, nn.BatchNorm2d(c_out), nn.ReLU()


def load_classifier(
    dataset: ImageDataset | None,
    cache_dir: Path | str | None = None,
    device: str = "cpu",
    settings: TrainingSettings | None = None,
) -> FeatureNetwork:
    """Return the feature network `classifier` of a data set: from the cache, or trained on the CPU.

    The data set is a complete, labelled training split with images of at least 8x8 pixels. By
    default, training takes seconds for 8x8 digits and a minute of one core for MNIST. A damaged
    cache file is replaced; without `cache_dir`, nothing is stored.
    """
    if dataset is None:
        raise UserError("classifier: give the training split that it learns from")
    settings = settings or TrainingSettings()
    data = split(dataset)
    if cache_dir is None:
        module, accuracy = train(data, settings)
    else:
        folder = Path(cache_dir).expanduser()
        module, accuracy = _load_or_train(data, settings, folder, dataset.name)
    return FeatureNetwork(
        module,
        name="classifier",
        image_size=dataset.image_size,
        channels=dataset.channels,
        held_out_accuracy=accuracy,
        device=device,
    )


class LabelledImages(NamedTuple):
    """Images, uint8 [N, C, H, W], and their classes, int64 [N]."""

    images: Tensor
    labels: Tensor


class TrainingData(NamedTuple):
    """A training split in two parts."""

    train: LabelledImages  # nine tenths, for training
    held_out: LabelledImages  # the tenth that `load_images(..., held_out=True)` returns
    classes: int  # K
    flip: bool  # whether images may be mirrored


def split(dataset: ImageDataset) -> TrainingData:
    """Divide a complete training split; refuse what `load_classifier` cannot use."""
    where = f"classifier: {dataset.name}/{dataset.split}"
    if dataset.split == "test":
        raise UserError(f"{where} is what is measured against; pass the split 'train'")
    if dataset.labels is None:
        raise UserError(f"{where} has no labels to learn from; use another feature network")
    if dataset.image_size < MIN_SIZE:
        raise UserError(
            f"{where} has images of {dataset.image_size} pixels; load it with image_size="
            f"{MIN_SIZE} or more"
        )
    classes = max(dataset.num_classes, int(dataset.labels.max()) + 1)
    if classes < 2:
        raise UserError(f"{where} has one class only; use another feature network")
    images, labels = dataset.stack(), dataset.labels
    train, held_out = (part_indices(len(dataset), part, where) for part in (False, True))
    return TrainingData(
        LabelledImages(images[train], labels[train]),
        LabelledImages(images[held_out], labels[held_out]),
        classes,
        dataset.horizontal_flip,
    )


def _load_or_train(
    data: TrainingData, settings: TrainingSettings, folder: Path, name: str
) -> tuple[SmallClassifier, float]:
    key = cache_key(data, settings)
    plain_name = re.sub(r"[^A-Za-z0-9_-]+", "-", name)[-40:].strip("-")  # it may be a path
    path = folder / f"classifier-{plain_name}-{key[:16]}.safetensors"
    stored = read_tensors(path, {"key": key})
    if stored is not None:
        module = SmallClassifier(data.train.images.shape[1], data.classes)
        accuracy = stored.pop(_ACCURACY).item()
        module.load_state_dict(stored)
        return module, accuracy
    try:
        folder.mkdir(parents=True, exist_ok=True)  # fail before minutes of training
        with at_work(f"training a classifier of {name}"):
            module, accuracy = train(data, settings)
        as_tensor = torch.tensor(accuracy, dtype=torch.float64)
        write_tensors(path, {**module.state_dict(), _ACCURACY: as_tensor}, {"key": key})
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give another cache_dir") from error
    return module, accuracy


def cache_key(data: TrainingData, settings: TrainingSettings) -> str:
    """Return the SHA-256 of everything that determines the weights."""
    layout = SmallClassifier(data.train.images.shape[1], data.classes)
    facts = (
        *(state_digest(part._asdict()) for part in (data.train, data.held_out)),
        data.flip,
        str(layout),
        sorted(asdict(settings).items()),
        torch.__version__,
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def train(data: TrainingData, settings: TrainingSettings) -> tuple[SmallClassifier, float]:
    """Return a trained classifier, in evaluation mode, and its accuracy on the held-out tenth."""
    images, labels = data.train
    with torch.random.fork_rng(devices=[]):  # leaves the global generator as it was
        torch.manual_seed(settings.seed)
        module = SmallClassifier(images.shape[1], data.classes)
    optimizer = torch.optim.Adam(module.parameters(), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=settings.learning_rate, total_steps=settings.steps
    )
    generator = torch.Generator().manual_seed(settings.seed)
    order = torch.empty(0, dtype=torch.int64)
    size = min(settings.batch_size, len(images))
    largest = max(1, round(settings.shift * images.shape[-1]))
    for _ in range(settings.steps):
        if len(order) < size:  # a new epoch; drop the rest of the previous one
            order = torch.randperm(len(images), generator=generator)
        batch, order = order[:size], order[size:]
        moved = shifted(images[batch], largest, generator)
        shown = random_flip(moved, generator) if data.flip else moved
        _, logits = module(to_model_range(shown))
        loss = F.cross_entropy(logits, labels[batch])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    return module.eval(), _accuracy(module, data.held_out)


def shifted(images: Tensor, largest: int, generator: torch.Generator) -> Tensor:
    """Shift each image of [B, C, H, W] by up to `largest` pixels, repeating its border.

    Example:
        >>> row = torch.arange(4).view(1, 1, 1, 4).expand(1, 1, 4, 4)
        >>> shifted(row, 1, torch.Generator().manual_seed(0))[0, 0, 0].tolist()
        [0, 0, 1, 2]
    """
    B, C, H, W = images.shape
    down, right = torch.randint(-largest, largest + 1, (2, B, 1), generator=generator)
    rows = (torch.arange(H) + down).clamp(0, H - 1)  # [B, H]
    columns = (torch.arange(W) + right).clamp(0, W - 1)  # [B, W]
    batch, channel = torch.arange(B).view(B, 1, 1, 1), torch.arange(C).view(1, C, 1, 1)
    return images[batch, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _accuracy(module: nn.Module, data: LabelledImages) -> float:
    parts = zip(*(torch.split(tensor, EVAL_BATCH) for tensor in data), strict=True)
    with torch.no_grad():
        right = sum(
            int((module(to_model_range(images))[1].argmax(dim=1) == labels).sum())
            for images, labels in parts
        )
    return right / len(data.labels)
