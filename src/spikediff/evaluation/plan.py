"""Which feature networks of a protocol can be had here, and with which weights.

What an evaluation is going to do, checked before the first image is made.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from accelerate import PartialState

from spikediff.data import DATASETS, ImageDataset, load_images
from spikediff.errors import UserError, suggestion
from spikediff.evaluation.features import FeatureNetwork, load_features
from spikediff.evaluation.preparation import Preparation
from spikediff.evaluation.protocol import EvaluationProtocol, Measurement
from spikediff.evaluation.sources import ImageSource, RealImages


class NoFeatureNetworkError(UserError):
    """None of a protocol's feature networks can be had: no weights are given, no classes known."""


_ANY = "*"
WEIGHT_FILES: dict[str, dict[str, str]] = {
    "fad": {"mnist": "mnist_64.pth", "fashion-mnist": "fashion_64.pth"},
    "resnet20": {
        "cifar10": "resnet20-12fca82f.th",
        "cifar10-lossless-subset": "resnet20-12fca82f.th",
    },
    "inception": {_ANY: "weights-inception-2015-12-05-6726825d.pth"},
}
"""Feature network -> data set that it is meant for (`*`: any) -> name of its weights' file."""


@dataclass(frozen=True)
class Choice:
    """The measurements of a protocol that can be made, and why others cannot.

    Attributes:
        weights: The measurements, with their networks' weights; None where none are needed.
        notes: One line for each measurement that is left out.
    """

    weights: dict[Measurement, Path | None]
    notes: tuple[str, ...]


def choose_networks(
    protocol: EvaluationProtocol,
    dataset: ImageDataset,
    given: Path | None,
    asked: tuple[str, ...] | None,
) -> Choice:
    """Find the weights of a protocol's networks; leave out those that may be and have none.

    Args:
        protocol: The protocol.
        dataset: The reference; it decides which weights fit, and whether there are classes.
        given: A file of weights, or a folder with files that bear their published names.
        asked: Only these networks, all of which are then needed; None takes what there is.

    Returns:
        The choice.

    Raises:
        UserError: A network is unknown to the protocol, or weights that are needed are not given.
        NoFeatureNetworkError: Nothing is left to measure with.
    """
    known = [part.network for part in protocol.measurements]
    for name in asked or ():
        if name not in known:
            raise UserError(
                f"protocol {protocol.name} has no features {name!r}; {suggestion(name, known)}"
            )
    if given is not None and not given.exists():
        raise UserError(f"{given}: no such file or folder; give weights of feature networks")
    weights: dict[Measurement, Path | None] = {}
    notes = []
    for part in protocol.measurements:
        if asked is not None and part.network not in asked:
            continue
        try:
            weights[part] = _weights_of(part.network, known, dataset, given)
        except UserError as error:
            if part.required or asked is not None:
                raise UserError(f"protocol {protocol.name}: {error}") from None
            notes.append(f"left out: {error}")
    if not weights:
        raise NoFeatureNetworkError(
            f"protocol {protocol.name}: nothing to measure with; {'; '.join(notes)}"
        )
    return Choice(weights, tuple(notes))


def _weights_of(
    network: str, known: list[str], dataset: ImageDataset, given: Path | None
) -> Path | None:
    """Return the file of a network's weights, None where it needs none; complain in one line."""
    if network not in WEIGHT_FILES:
        if network == "classifier" and dataset.labels is None:
            raise UserError(f"classifier: {dataset.name} has no classes to learn from")
        return None
    files = WEIGHT_FILES[network]
    name = files.get(dataset.name, files.get(_ANY))
    wanted = name or f"weights for {dataset.name}"
    if given is None:
        raise UserError(f"{network} needs its weights; pass --feature-weights with {wanted}")
    if given.is_file():
        return _only_file(network, known, given, wanted)
    found = [] if name is None else [*given.glob(name), *given.glob(f"*/{name}")]
    if not found:
        raise UserError(f"{network}: --feature-weights holds no {wanted}")
    return found[0]


def _only_file(network: str, known: list[str], given: Path, wanted: str) -> Path:
    """Return the file if it is this network's: by its published name, else by being the first."""
    owners = [n for n, files in WEIGHT_FILES.items() if given.name in files.values()]
    owners = owners or [n for n in known if n in WEIGHT_FILES][:1]
    if network not in owners:
        raise UserError(f"{network}: --feature-weights is of {owners[0]}; add {wanted} in a folder")
    return given


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
