"""The plan of an evaluation; everything that can be checked before images are generated."""

from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from accelerate import PartialState

from spikediff.data import DATASETS, ImageDataset, load_images
from spikediff.errors import UserError, check_number, suggestion
from spikediff.evaluation.features import ANY, FEATURES, find_features, load_features
from spikediff.evaluation.features.network import FeatureNetwork, preparation_notes, prepare
from spikediff.evaluation.metrics import METRICS
from spikediff.evaluation.protocol import EvaluationProtocol, Measurement
from spikediff.evaluation.sources import ImageSource, real_images


class NoFeatureNetworkError(UserError):
    """No feature network of a protocol is available."""


def choose_networks(
    protocol: EvaluationProtocol,
    dataset: ImageDataset,
    given: Path | None,
    asked: tuple[str, ...] | None,
) -> tuple[dict[Measurement, Path | None], list[str]]:
    """Find the weights of a protocol's networks; skip optional networks without weights.

    Args:
        protocol: The protocol.
        dataset: The reference, which determines the suitable weights.
        given: A file of weights, or a folder with files under their published names.
        asked: Use only these networks, and require all of them; None uses the available ones.

    Returns:
        The measurements with their weights (None if they need none), and a note for each skipped
        measurement.

    Raises:
        NoFeatureNetworkError: No network is available.
    """
    known = [part.network for part in protocol.measurements]
    for name in asked or ():
        if name not in known:
            hint = f"it has {', '.join(known)}" if name in FEATURES else suggestion(name, known)
            raise UserError(f"protocol {protocol.name} has no features {name!r}; {hint}")
    if given is not None and not given.exists():
        raise UserError(f"{given}: no such file or folder; give weights of feature networks")
    weights: dict[Measurement, Path | None] = {}
    notes = []
    for part in protocol.measurements:
        if asked is not None and part.network not in asked:
            continue
        find_features(part.network)  # an unknown name is an error, not missing weights
        try:
            weights[part] = _weights_of(part.network, list(asked or known), dataset, given)
        except UserError as error:
            if part.required or asked is not None:
                raise UserError(f"protocol {protocol.name}: {error}") from None
            notes.append(f"left out: {error}")
    if not weights:
        raise NoFeatureNetworkError(
            f"protocol {protocol.name}: nothing to measure with; {'; '.join(notes)}"
        )
    return weights, notes


def _weights_of(
    network: str, known: list[str], dataset: ImageDataset, given: Path | None
) -> Path | None:
    """Return the file of a network's weights; None if it needs none or downloads them."""
    row = find_features(network)
    if not row.files:
        if network == "classifier" and dataset.labels is None:
            raise UserError(f"classifier: {dataset.name} has no classes to learn from")
        return None
    name = row.files.get(dataset.name, row.files.get(ANY))
    wanted = name or f"weights for {dataset.name}"
    if row.fetches and given is None:
        return None
    if given is None and name is None:
        raise UserError(f"{network} has no published weights for {dataset.name}")
    if given is None:
        raise UserError(f"{network} needs its weights; pass --feature-weights with {wanted}")
    if given.is_file():
        owners = [other for other, row in FEATURES.items() if given.name in row.files.values()]
        owners = owners or [other for other in known if find_features(other).files][:1]
        if network not in owners:
            raise UserError(
                f"{network}: --feature-weights is of {owners[0]}; add {wanted} in a folder"
            )
        others = [data for data, file in row.files.items() if name and file == given.name != name]
        if others:
            raise UserError(f"{network}: --feature-weights is for {others[0]}; give {wanted}")
        return given
    found = [] if name is None else [*given.glob(name), *given.glob(f"*/{name}")]
    if not found and row.fetches:
        return None
    if not found:
        raise UserError(f"{network}: --feature-weights holds no {wanted}")
    return found[0]


_FLOOR_SEED = 0  # fixes the choice of real images for the floor; must not change


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings of an evaluation, except the source of the images."""

    protocol: EvaluationProtocol
    dataset: str  # name of the reference data set
    cache_dir: Path  # stores the features of real images and the classifier
    work_dir: Path  # stores generated images and the features of the evaluated images
    data_dir: Path | None = None  # folder of the data sets
    image_size: int | None = None  # side of images of a data set outside `DATASETS`, in pixels
    channels: int | None = None  # channels of such images
    num_samples: int | None = None  # images per repeat; None takes the protocol's number
    repeats: int = 1  # number of repeats, each with different images
    spool_size: int = 64  # generated images per file of the work folder
    # Use only these networks of the protocol; None uses the available ones.
    features: tuple[str, ...] | None = None
    feature_weights: Path | None = None  # a file of weights or a folder of them
    # Published moments of the reference, for measurements of mode `published`.
    statistics: Path | None = None


@dataclass(frozen=True, eq=False)
class EvaluationPlan:
    """The images to evaluate, the reference, and the feature networks."""

    settings: EvaluationSettings
    source: ImageSource  # the images to evaluate
    reference: ImageSource  # real images to compare with
    reference_origin: str  # the files of the reference
    floor: ImageSource  # real images whose score is that of a perfect generator
    networks: dict[Measurement, FeatureNetwork]  # the measurements with their feature networks
    count: int  # images per repeat
    wanted: int  # images per repeat according to the protocol
    notes: list[str]  # remarks for readers of the result

    @property
    def floor_count(self) -> int:
        """Number of images of the floor: that of a repeat, or fewer if the split is smaller."""
        return min(self.count, self.floor.available or 0)


def make_plan(
    source: ImageSource, settings: EvaluationSettings, processes: PartialState
) -> EvaluationPlan:
    """Check everything that needs no generated images, and load the feature networks.

    The main process trains the classifier if necessary.
    """
    protocol = settings.protocol
    sizes: dict[str, Any] = {"image_size": settings.image_size, "channels": settings.channels}
    if settings.dataset in DATASETS:
        sizes = {}  # the published protocols have the data set's own size
    load = cache(partial(load_images, settings.dataset, data_dir=settings.data_dir, **sizes))
    dataset = load(protocol.reference_split)
    reference = real_images(dataset, limit=protocol.reference_images)
    weights, left_out = choose_networks(
        protocol, dataset, settings.feature_weights, settings.features
    )
    if settings.statistics is not None and all(part.mode != "published" for part in weights):
        raise UserError(
            f"{settings.statistics}: statistics serve mode 'published', which protocol "
            f"{protocol.name} does not use here; omit --statistics"
        )
    wanted = protocol.num_samples
    if protocol.at_most_reference:
        wanted = min(wanted, reference.available or 0)
    count = wanted if settings.num_samples is None else settings.num_samples
    floor = real_images(load(protocol.floor_split), seed=_FLOOR_SEED)
    fewest = protocol.fewest_samples(weights)
    _check_count(count, source, settings, fewest)
    of_reference = replace(protocol, inception_splits=1).fewest_samples(weights)
    for what, images, least in ("reference", reference, of_reference), ("floor", floor, fewest):
        if (images.available or 0) < least:
            raise UserError(
                f"the {what} has {images.available} images; protocol {protocol.name} needs {least}"
            )
    with processes.main_process_first():
        networks = {
            part: load_features(
                part.network,
                weights=file,
                dataset=load("train"),
                mode=part.mode,
                cache_dir=settings.cache_dir,
                device=str(processes.device),
            )
            for part, file in weights.items()
        }
    for part, network in networks.items():
        for metric in part.metrics:
            if METRICS[metric].needs_classes and not network.has_classes:
                raise UserError(f"{part.key}: gives no class probabilities; remove {metric}")
    notes = left_out + _fitting_notes(networks, protocol.resize_filter, source, reference)
    return EvaluationPlan(
        settings=settings,
        source=source,
        reference=reference,
        reference_origin=dataset.origin,
        floor=floor,
        networks=networks,
        count=count,
        wanted=wanted,
        notes=list(dict.fromkeys(notes)),
    )


def _check_count(
    count: int, source: ImageSource, settings: EvaluationSettings, fewest: int
) -> None:
    if count < fewest:
        name = settings.protocol.name
        raise UserError(f"{count} samples are too few; protocol {name} needs {fewest}")
    check_number("repeats", settings.repeats, 1, whole=True)
    available = source.available
    if available is not None and available < count * settings.repeats:
        times = f" x {settings.repeats} repeats" if settings.repeats > 1 else ""
        most = available // settings.repeats
        less = f"--num-samples {most} or fewer" if most >= fewest else "fewer --repeats"
        raise UserError(
            f"the source holds {available} images, but {count}{times} are requested; "
            f"give {less if available >= fewest else f'at least {fewest} images'}"
        )


def _fitting_notes(
    networks: dict[Measurement, FeatureNetwork],
    resize_filter: str | None,
    source: ImageSource,
    reference: ImageSource,
) -> list[str]:
    """Describe how images are adapted to the networks; refuse unsuitable images."""
    notes = []
    for what, images in ("judged", source.take(0, 1)), ("reference", reference.take(0, 1)):
        for part, network in networks.items():
            filter_name = network.resize_filter or resize_filter
            wanted = (network.image_size, network.channels, filter_name)
            prepare(images, *wanted)
            found = preparation_notes(images, *wanted)
            notes += [f"{part.key}, {what} images: {note}" for note in found]
    return notes
