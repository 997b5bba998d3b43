"""Evaluation protocols: number of samples, reference images, feature networks and metrics.

A protocol is a YAML file. Those of the papers are in `protocols/` beside this module; name your own
by its path. The `caveat` of a protocol states its weaknesses.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spikediff.data import RESIZE_FILTERS
from spikediff.errors import UserError, check_known, check_number, suggestion
from spikediff.evaluation.features.network import MODES
from spikediff.evaluation.features.pretrained import PREFIX
from spikediff.evaluation.metrics import METRICS
from spikediff.files.yaml import build, read_yaml

_WITHOUT_LABELS = ("frechet", "kernel", "neighbours")
_SHELF = Path(__file__).parent / "protocols"


@dataclass(frozen=True)
class Measurement:
    """A feature network and the metrics computed on its features."""

    network: str  # a key of `FEATURES`, or `timm:MODEL`
    metrics: tuple[str, ...]  # keys of `METRICS`
    # `clean`, or `published`: batch norm as the authors ran it. The two are not comparable, so the
    # mode is part of every result's key.
    mode: str = "clean"
    # False skips the network, with a note, if its weights are missing.
    required: bool = True

    @property
    def key(self) -> str:
        """The prefix of its results, `network/mode`."""
        return f"{self.network}/{self.mode}"


@dataclass(frozen=True)
class EvaluationProtocol:
    """Everything that determines a quality figure, except the model."""

    name: str  # its name in results
    summary: str
    caveat: str  # its weaknesses
    num_samples: int  # images to generate
    measurements: tuple[Measurement, ...]  # feature networks and metrics
    reference_split: str = "test"  # split of the reference data set
    # Split of the real images that are scored as the floor, the score of a perfect generator.
    floor_split: str = "train"
    at_most_reference: bool = False  # whether to generate at most as many images as the reference
    reference_images: int | None = None  # use only the first images of the split; None uses all
    # Filter for resizing images to the network's side; None refuses other sizes.
    resize_filter: str | None = "bilinear"
    inception_splits: int = 10  # parts for the Inception score
    kernel_subsets: int = 100  # subsets for the kernel distance
    kernel_subset_size: int = 1000  # images per subset
    neighbours: int = 5  # k of precision, recall, density and coverage

    def fewest_samples(self, measurements: Iterable[Measurement]) -> int:
        """Return the smallest number of images that all metrics accept."""
        metrics = {metric for part in measurements for metric in part.metrics}
        return max([2, *(METRICS[metric].fewest(self) for metric in metrics)])

    def with_features(self, names: Iterable[str]) -> "EvaluationProtocol":
        """Return the protocol with those of `names` added that are networks of timm.

        Example:
            >>> load_protocol("fair").with_features(["timm:resnet18"]).measurements[-1].key
            'timm:resnet18/clean'
        """
        known = {part.network for part in self.measurements}
        added = tuple(
            Measurement(name, _WITHOUT_LABELS)
            for name in dict.fromkeys(names)
            if name not in known and (name == "dinov2" or name.startswith(PREFIX))
        )
        return replace(self, measurements=self.measurements + added)


def protocol_names() -> list[str]:
    """Return the names of the protocols in the package."""
    return sorted(path.stem for path in _SHELF.glob("*.yaml"))


def load_protocol(name: str) -> EvaluationProtocol:
    """Read a protocol: one of `protocol_names`, or a YAML file."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else _SHELF / f"{name}.yaml"
    if path.parent == _SHELF and name not in protocol_names():
        hint = suggestion(name, protocol_names())
        raise UserError(f"unknown protocol {name!r}; {hint}, or give a YAML file")
    return protocol_from(read_yaml(path), str(path))


def protocol_from(content: Any, where: str) -> EvaluationProtocol:
    """Build a protocol from the content of a YAML file; `where` names it in messages."""
    protocol: EvaluationProtocol = build(EvaluationProtocol, content, where)
    counts = ("num_samples", "reference_images", "inception_splits", "kernel_subsets")
    for key in (*counts, "kernel_subset_size", "neighbours"):
        value = getattr(protocol, key)
        if value is not None:
            check_number(f"{where}: {key}", value, 2 if key == "kernel_subset_size" else 1)
    if protocol.resize_filter is not None:
        check_known("resize_filter", protocol.resize_filter, RESIZE_FILTERS, f"{where}: ")
    if not protocol.measurements:
        raise UserError(f"{where}: measurements is empty; name a feature network")
    for part in protocol.measurements:
        if not part.metrics:
            raise UserError(f"{where}: {part.network}: metrics is empty; name a metric")
        check_known("mode", part.mode, MODES, f"{where}: {part.network}: ")
        for metric in part.metrics:
            check_known("metric", metric, METRICS, f"{where}: {part.network}: ")
    return protocol
