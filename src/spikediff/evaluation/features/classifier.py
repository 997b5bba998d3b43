"""A small classifier that the library trains on the data set itself: no weights are needed.

Its penultimate layer gives features, its softmax the probabilities of the Inception score. It
learns from the training split less the tenth that is held out, and its accuracy on that tenth says
how far its features can be trusted. Training is a function of the data and the seed: the same bits
on the same machine with the same number of threads.

Keeping trained classifiers: one file for every combination of data, layout and settings.
"""

import dataclasses
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spikediff.data import ImageDataset, random_flip, to_model_range
from spikediff.data.sources import PixelArray, take_part
from spikediff.errors import UserError
from spikediff.evaluation.features.network import FeatureExtractor
from spikediff.files.tensors import read_tensors, state_digest, write_tensors
from spikediff.progress import at_work

FEATURES_LENGTH = 128
MIN_SIZE = 8  # pixels; two strides leave 2x2
WIDTHS = (32, 64, 64)
GRID = 2  # the last feature map is averaged over a grid of 2x2: any image size fits
EVAL_BATCH = 512


@dataclass(frozen=True)
class TrainingSettings:
    """How the classifier is trained; part of the key of a stored one.

    Attributes:
        seed: Initial weights, order of the images and shifts are functions of it.
        steps: Optimizer steps.
        batch_size: Images a step.
        learning_rate: Peak of the one-cycle schedule of Adam.
        shift: Largest shift of an image, as a share of its side.
    """

    seed: int = 0
    steps: int = 1000
    batch_size: int = 128
    learning_rate: float = 8e-3
    shift: float = 0.07


class SmallClassifier(nn.Module):
    """Three convolutions and two linear layers: images -> (features [B, 128], logits [B, K]).

    Args:
        channels: C, 1 or 3.
        classes: K.

    Example:
        >>> features, logits = SmallClassifier(1, 10)(torch.zeros(2, 1, 8, 8))
        >>> features.shape, logits.shape
        (torch.Size([2, 128]), torch.Size([2, 10]))
    """

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
    """Return a convolution with a border of zeros, batch norm and ReLU."""
    convolution = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False)
    return convolution, nn.BatchNorm2d(c_out), nn.ReLU()


@dataclass(frozen=True, eq=False)
class TrainedClassifier:
    """A classifier with what is known of it.

    Attributes:
        module: The network, in evaluation mode.
        image_size: Side of the images that it was trained on, in pixels.
        channels: C.
        held_out_accuracy: Share of the held-out tenth that it classifies right.
    """

    module: SmallClassifier
    image_size: int
    channels: int
    held_out_accuracy: float

    def features(self, device: torch.device | str = "cpu") -> FeatureExtractor:
        """Return it as the feature network `classifier`."""
        return FeatureExtractor(
            self.module,
            name="classifier",
            image_size=self.image_size,
            channels=self.channels,
            held_out_accuracy=self.held_out_accuracy,
            device=device,
        )


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images that a classifier learns from or is tested on.

    Attributes:
        images: uint8 [N, C, H, W].
        labels: int64 [N].
    """

    images: Tensor
    labels: Tensor

    @property
    def digest(self) -> str:
        """SHA-256 over the pixels and the labels."""
        return state_digest({"images": self.images, "labels": self.labels})


@dataclass(frozen=True, eq=False)
class ClassifierData:
    """The training split in two parts.

    Attributes:
        train: Nine tenths, to learn from.
        held_out: The tenth that `load_images(..., held_out=True)` gives.
        classes: K.
        flip: Whether mirrored images are as good as the images.
    """

    train: LabelledImages
    held_out: LabelledImages
    classes: int
    flip: bool

    @staticmethod
    def of(dataset: ImageDataset) -> "ClassifierData":
        """Divide a whole training split.

        Args:
            dataset: Labelled images of the training split, at least 8x8.

        Raises:
            UserError: No labels, fewer than two classes, too small images, or the test split, on
                which nothing may be trained.
        """
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
        train, held_out = (_part(len(dataset), held_out, where) for held_out in (False, True))
        return ClassifierData(
            LabelledImages(images[train], labels[train]),
            LabelledImages(images[held_out], labels[held_out]),
            classes,
            dataset.horizontal_flip,
        )


def _part(count: int, held_out: bool, where: str) -> Tensor:
    """Return the indices of the held-out tenth of `count` images, or of the rest, int64."""
    # `take_part` owns the rule; images of no pixels carry their indices through it as labels.
    nothing = np.zeros((count, 0, 0), np.uint8)
    numbered = PixelArray(nothing, torch.arange(count), (), where)
    indices = take_part(numbered, held_out).labels
    assert indices is not None  # they were given
    return indices


def train_classifier(
    dataset: ImageDataset, settings: TrainingSettings | None = None
) -> TrainedClassifier:
    """Train the small classifier on nine tenths of a training split, on the CPU.

    Args:
        dataset: The whole training split, labelled; one or three channels, at least 8x8.
        settings: How; the defaults take seconds on 8x8 digits and about a minute of one core on
            MNIST.

    Returns:
        The classifier with its accuracy on the held-out tenth.

    Raises:
        UserError: The data set cannot be learnt from; see `ClassifierData.of`.
    """
    return train_on(ClassifierData.of(dataset), settings or TrainingSettings())


def train_on(data: ClassifierData, settings: TrainingSettings) -> TrainedClassifier:
    """Train the small classifier on data already divided; see `train_classifier`."""
    channels, side = data.train.images.shape[1], data.train.images.shape[-1]
    module = _initial(channels, data.classes, settings.seed)
    optimizer = torch.optim.Adam(module.parameters(), fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=settings.learning_rate, total_steps=settings.steps
    )
    generator = torch.Generator().manual_seed(settings.seed)
    order = torch.empty(0, dtype=torch.int64)
    size = min(settings.batch_size, len(data.train.images))
    module.train()
    for _ in range(settings.steps):
        if len(order) < size:  # a new epoch; the odd images of the last one wait for another
            order = torch.randperm(len(data.train.images), generator=generator)
        batch, order = order[:size], order[size:]
        images = _augmented(data.train.images[batch], data.flip, settings.shift, generator)
        _, logits = module(to_model_range(images))
        loss = F.cross_entropy(logits, data.train.labels[batch])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    module.eval()
    return TrainedClassifier(module, side, channels, accuracy(module, data.held_out))


def _initial(channels: int, classes: int, seed: int) -> SmallClassifier:
    """Return fresh weights, a function of the seed, and leave the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SmallClassifier(channels, classes)


def _augmented(images: Tensor, flip: bool, shift: float, generator: torch.Generator) -> Tensor:
    """Shift every image [B, C, H, W] at random, and mirror it where that does no harm."""
    largest = max(1, round(shift * images.shape[-1]))
    moved = shifted(images, largest, generator)
    return random_flip(moved, generator) if flip else moved


def shifted(images: Tensor, largest: int, generator: torch.Generator) -> Tensor:
    """Shift every image by up to `largest` pixels in each direction, repeating its border.

    Args:
        images: [B, C, H, W], any type.
        largest: In pixels, smaller than H and W.
        generator: The only source of randomness.

    Returns:
        [B, C, H, W], a new tensor.

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


def accuracy(module: nn.Module, data: LabelledImages) -> float:
    """Return the share of images that a classifier in evaluation mode gets right."""
    right = 0
    with torch.no_grad():
        for images, labels in zip(
            torch.split(data.images, EVAL_BATCH), torch.split(data.labels, EVAL_BATCH), strict=True
        ):
            _, logits = module(to_model_range(images))
            right += int((logits.argmax(dim=1) == labels).sum())
    return right / len(data.labels)


_ACCURACY = "held_out_accuracy"  # beside the weights in the file


def load_or_train_classifier(
    dataset: ImageDataset, cache_dir: Path | str, settings: TrainingSettings | None = None
) -> TrainedClassifier:
    """Return the classifier of a data set, from the cache where it is there.

    Args:
        dataset: The whole training split, labelled.
        cache_dir: Folder of stored classifiers; made where it does not exist.
        settings: How it is trained.

    Returns:
        The classifier. A stored one has the same bits as when it was trained; one whose file is
        damaged is trained again, with a warning in the log.

    Raises:
        UserError: The data set cannot be learnt from; see `ClassifierData.of`. Or the folder
            cannot be written to.
    """
    settings = settings or TrainingSettings()
    data = ClassifierData.of(dataset)
    key = cache_key(data, settings)
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", dataset.name)[-40:].strip("-")  # may be a path
    path = Path(cache_dir).expanduser() / f"classifier-{name}-{key[:16]}.safetensors"
    stored = read_tensors(path, {"key": key})
    if stored is not None:
        return _restored(stored, data)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)  # before the minutes of training
        with at_work(f"training a classifier of {dataset.name}"):
            trained = train_on(data, settings)
        accuracy = torch.tensor(trained.held_out_accuracy, dtype=torch.float64)
        write_tensors(path, {**trained.module.state_dict(), _ACCURACY: accuracy}, {"key": key})
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give another cache_dir") from error
    return trained


def cache_key(data: ClassifierData, settings: TrainingSettings) -> str:
    """Return SHA-256 over all that the weights depend on."""
    layout = SmallClassifier(data.train.images.shape[1], data.classes)
    facts = (
        data.train.digest,
        data.held_out.digest,
        data.flip,
        str(layout),
        sorted(dataclasses.asdict(settings).items()),
        torch.__version__,
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _restored(stored: dict[str, Tensor], data: ClassifierData) -> TrainedClassifier:
    """Return a stored classifier."""
    channels, side = data.train.images.shape[1], data.train.images.shape[-1]
    module = SmallClassifier(channels, data.classes)
    accuracy = stored.pop(_ACCURACY).item()
    module.load_state_dict(stored)
    module.eval()
    return TrainedClassifier(module, side, channels, accuracy)
