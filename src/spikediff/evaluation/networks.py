"""Which feature networks of a protocol can be had here, and with which weights."""

from dataclasses import dataclass
from pathlib import Path

from spikediff.data import ImageDataset
from spikediff.errors import UserError, suggestion
from spikediff.evaluation.protocol import EvaluationProtocol, Measurement


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
