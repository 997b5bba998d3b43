"""What an evaluation is going to do, checked before the first image is made."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from accelerate import PartialState

from spikediff.data import DATASETS, ImageDataset, load_images
from spikediff.errors import UserError
from spikediff.evaluation.features import FeatureNetwork, load_features
from spikediff.evaluation.networks import Choice, choose_networks
from spikediff.evaluation.preparation import Preparation
from spikediff.evaluation.protocol import EvaluationProtocol, Measurement
from spikediff.evaluation.sources import ImageSource, RealImages

_FLOOR_SEED = 0  # which real images give the floor is fixed for ever


@dataclass(frozen=True)
class EvaluationSettings:
    """What an evaluation is told besides the source of its images.

    Attributes:
        protocol: The protocol.
        dataset: Name of the data set that is compared with.
        cache_dir: Where the features of real images and the classifier are kept.
        work_dir: Where generated images and the features of what is judged are kept.
        data_dir: Folder of the data sets.
        image_size: Side that images of a data set that no row lists are read at; None keeps the
            data set's own.
        channels: And their channels.
        num_samples: Images a repeat; as many as the protocol says where it is None.
        repeats: How often, each time with other images.
        spool_size: Images in a file of the spool.
        features: Only these networks of the protocol; None takes those that there are.
        feature_weights: A file of weights or a folder of them.
        statistics: Published moments of the reference, for measurements of mode `published`.
    """

    protocol: EvaluationProtocol
    dataset: str
    cache_dir: Path
    work_dir: Path
    data_dir: Path | None = None
    image_size: int | None = None
    channels: int | None = None
    num_samples: int | None = None
    repeats: int = 1
    spool_size: int = 64
    features: tuple[str, ...] | None = None
    feature_weights: Path | None = None
    statistics: Path | None = None


@dataclass(frozen=True, eq=False)
class EvaluationPlan:
    """What is judged, against what, and by what.

    Attributes:
        settings: What was asked for.
        source: The images to be judged.
        reference: Real images that they are compared with.
        floor: Real images that show what a perfect generator would score.
        networks: The measurements with their feature networks.
        count: Images a repeat.
        wanted: Images a repeat that the protocol asks for.
        notes: What a reader of the numbers should know.
    """

    settings: EvaluationSettings
    source: ImageSource
    reference: RealImages
    floor: RealImages
    networks: dict[Measurement, FeatureNetwork]
    count: int
    wanted: int
    notes: tuple[str, ...]

    @property
    def floor_count(self) -> int:
        """How many images the floor takes: as many as a repeat, if there are so many."""
        return min(self.count, len(self.floor))


def make_plan(
    source: ImageSource, settings: EvaluationSettings, processes: PartialState
) -> EvaluationPlan:
    """Check everything that can be checked without generating, and load the feature networks.

    Args:
        source: The images to be judged.
        settings: What was asked for.
        processes: Where the networks run; the first process trains what must be trained.

    Returns:
        The plan.

    Raises:
        UserError: Too few images or samples, images that do not fit, weights that are not given.
    """
    protocol = settings.protocol

    @cache
    def split(name: str) -> ImageDataset:
        listed = settings.dataset in DATASETS  # the published protocols have its own size
        return load_images(
            settings.dataset,
            name,
            image_size=None if listed else settings.image_size,
            channels=None if listed else settings.channels,
            data_dir=settings.data_dir,
        )

    reference = RealImages(split(protocol.reference_split), limit=protocol.reference_images)
    choice = choose_networks(
        protocol, reference.dataset, settings.feature_weights, settings.features
    )
    _check_statistics(settings, choice)
    wanted = protocol.num_samples
    if protocol.at_most_reference:
        wanted = min(wanted, len(reference))
    count = _count(source, settings, choice, wanted)
    networks = _load(choice, split, settings.cache_dir, processes)
    floor = RealImages(split(protocol.floor_split), seed=_FLOOR_SEED)
    notes = (*choice.notes, *_fitting_notes(networks, protocol, source, reference))
    return EvaluationPlan(
        settings, source, reference, floor, networks, count, wanted, tuple(dict.fromkeys(notes))
    )


def _count(source: ImageSource, settings: EvaluationSettings, choice: Choice, wanted: int) -> int:
    """Return the images of a repeat, after checking that they are enough and there."""
    protocol = settings.protocol
    count = wanted if settings.num_samples is None else settings.num_samples
    fewest = protocol.fewest_samples(choice.weights)
    if count < fewest:
        raise UserError(f"{count} samples are too few; protocol {protocol.name} needs {fewest}")
    if settings.repeats < 1:
        raise UserError(f"repeats = {settings.repeats} must be at least 1")
    needed, available = count * settings.repeats, source.available
    if available is not None and available < needed:
        times = f" x {settings.repeats} repeats" if settings.repeats > 1 else ""
        raise UserError(
            f"the source holds {available} images, but {count}{times} are asked for; "
            f"give --num-samples {available // settings.repeats} or fewer"
        )
    return count


def _check_statistics(settings: EvaluationSettings, choice: Choice) -> None:
    """Refuse published statistics where nothing is measured as published."""
    published = [part for part in choice.weights if part.mode == "published"]
    if settings.statistics is not None and not published:
        raise UserError(
            f"{settings.statistics}: statistics serve mode 'published', which protocol "
            f"{settings.protocol.name} does not use here; leave --statistics out"
        )


def _load(
    choice: Choice,
    split: Callable[[str], ImageDataset],
    cache_dir: Path,
    processes: PartialState,
) -> dict[Measurement, FeatureNetwork]:
    """Load the networks; a classifier is trained once, by the first process."""
    with processes.main_process_first():
        return {
            part: load_features(
                part.network,
                weights=weights,
                dataset=split("train"),
                mode=part.mode,
                cache_dir=cache_dir,
                device=str(processes.device),
            )
            for part, weights in choice.weights.items()
        }


def _fitting_notes(
    networks: dict[Measurement, FeatureNetwork],
    protocol: EvaluationProtocol,
    source: ImageSource,
    reference: RealImages,
) -> list[str]:
    """Say what is done to images on their way into the networks; refuse those that do not fit."""
    notes = []
    for what, images in ("judged", source.images(0, 1)), ("reference", reference.images(0, 1)):
        for part, network in networks.items():
            prepare = Preparation(network.image_size, network.channels, protocol.resize_filter)
            prepare(images)
            notes += [f"{part.key}, {what} images: {note}" for note in prepare.notes(images)]
    return notes
