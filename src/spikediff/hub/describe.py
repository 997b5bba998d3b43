"""The facts about a model, read from its run, its networks and its results."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from spikediff.diffusion.classes import number_of_classes
from spikediff.diffusion.loop import networks_of
from spikediff.errors import UserError
from spikediff.evaluation.sources import public_name
from spikediff.files.reading import read_json
from spikediff.hub.results import Results
from spikediff.neurons import SpikeEmitter
from spikediff.training.checkpoint import load_latest
from spikediff.training.curve import read_curve
from spikediff.training.first_stage import first_stage_folder
from spikediff.training.recipe import Recipe, load_run_recipe
from spikediff.training.run_folder import RunFolder


@dataclass(frozen=True)
class Paper:
    """A published system."""

    name: str
    authors: str
    title: str
    venue: str
    year: int
    arxiv: str

    def bibtex(self) -> str:
        """Return the entry for a bibliography."""
        key = f"{self.authors.split(',')[0].lower()}{self.year}{self.name.lower().split('-')[0]}"
        return (
            f"@misc{{{key},\n"
            f"  author = {{{self.authors}}},\n"
            f"  title = {{{self.title}}},\n"
            f"  year = {{{self.year}}},\n"
            f"  note = {{{self.venue}}},\n"
            f"  eprint = {{{self.arxiv}}},\n"
            f"  archivePrefix = {{arXiv}}\n"
            f"}}"
        )


SDDPM = Paper(
    "SDDPM",
    "Cao, Jiahang and others",
    "Spiking Denoising Diffusion Probabilistic Models",
    "WACV 2024",
    2024,
    "2306.17046",
)
SDM = Paper(
    "SDM", "Cao, Jiahang and others", "Spiking Diffusion Models", "IEEE TAI", 2025, "2408.16467"
)
FSDDIM = Paper(
    "FSDDIM",
    "Watanabe, Ryo and Mukuta, Yusuke and Harada, Tatsuya",
    "Fully Spiking Denoising Diffusion Implicit Models",
    "arXiv",
    2023,
    "2312.01742",
)
SPIKING_DIFFUSION = Paper(
    "Spiking-Diffusion",
    "Liu, Mingxuan and others",
    "Spiking-Diffusion: Vector Quantized Discrete Diffusion Model with Spiking Neural Networks",
    "arXiv",
    2023,
    "2308.10187",
)
FSVAE = Paper(
    "FSVAE",
    "Kamata, Hiromichi and Mukuta, Yusuke and Harada, Tatsuya",
    "Fully Spiking Variational Autoencoder",
    "AAAI 2022",
    2022,
    "2110.00375",
)
DDPM = Paper(
    "DDPM",
    "Ho, Jonathan and Jain, Ajay and Abbeel, Pieter",
    "Denoising Diffusion Probabilistic Models",
    "NeurIPS 2020",
    2020,
    "2006.11239",
)
VAE = Paper(
    "VAE",
    "Kingma, Diederik P. and Welling, Max",
    "Auto-Encoding Variational Bayes",
    "ICLR 2014",
    2014,
    "1312.6114",
)

# By the class of a network; a U-Net with temporal scaling is SDM's.
_PAPERS = {
    "SpikingUNet": SDDPM,
    "ConvertedUNet": SDM,
    "QuantisedUNet": SDM,
    "SynapticCurrentUNet": FSDDIM,
    "VQSVAE": SPIKING_DIFFUSION,
    "SpikingImageDecoder": SPIKING_DIFFUSION,
    "FSVAE": FSVAE,
    "VAE": VAE,
    "UNet2DModel": DDPM,
}


def paper_of(networks: Iterable[Any]) -> Paper | None:
    """Return the paper of a pipeline's system; None if unknown."""
    for network in networks:
        if network.config.get("temporal_scaling"):
            return SDM
        if (paper := _PAPERS.get(type(network).__name__)) is not None:
            return paper
    return None


_PACKAGES = ("spikediff", "torch", "diffusers", "safetensors")


@dataclass(frozen=True)
class Stage:
    """One training run."""

    recipe: Recipe  # without paths of the machine that it ran on
    steps: int | None  # optimizer steps of the weights; None if unknown
    packages: Mapping[str, str] = field(default_factory=dict)  # versions used in the run
    commit: str | None = None  # commit of spikediff

    @property
    def images_seen(self) -> int | None:
        """Number of training images seen, counting repetitions."""
        return None if self.steps is None else self.steps * self.recipe.data.batch_size


@dataclass(frozen=True)
class NetworkFacts:
    """One network of a pipeline."""

    part: str  # its name in the pipeline
    kind: str  # its class
    parameters: int
    spiking_steps: int | None  # T; None for an ordinary network
    neuron_layers: int
    image: tuple[int, int] | None  # channels and side in pixels; None for signals
    levels: int | None = None  # D, the largest count of an integer network's neurons
    classes: int = 0  # 0 for an unconditional network


@dataclass(frozen=True)
class ModelFacts:
    """The facts for a card; the template `card.md.jinja` reads every field by its name."""

    name: str
    pipeline: str  # its class
    networks: tuple[NetworkFacts, ...]
    scheduler: dict[str, Any] | None  # its class and main settings
    generates: bool  # False for an autoencoder that only reconstructs
    paper: Paper | None
    signals: bool = False  # whether it generates signals instead of images
    stages: tuple[Stage, ...] = ()  # training runs, the first stage first
    origin: dict[str, Any] | None = None  # contents of origin.json, written by `spikediff import`
    results: Results = field(default_factory=Results)
    licence: str | None = None  # licence of the weights, by its identifier on the Hub
    packages: Mapping[str, str] = field(default_factory=dict)  # versions when saving the repository

    @property
    def spiking(self) -> bool:
        """Whether a network has spiking neurons."""
        return any(network.neuron_layers for network in self.networks)

    @property
    def datasets(self) -> list[str]:
        """The data sets that the stages were trained on, by name."""
        return sorted({stage.recipe.data.dataset for stage in self.stages})

    @property
    def recipes(self) -> dict[str, Stage]:
        """The stages, by the name of their recipe's file in the repository."""
        names = [f"recipe-stage-{i + 1}.yaml" for i in range(len(self.stages))]
        names[-1:] = ["recipe.yaml"]
        return dict(zip(names, self.stages, strict=False))


def gather_facts(
    pipe: Any, source: Path, name: str, results: Results, licence: str | None = None
) -> ModelFacts:
    """Collect the facts about a model loaded from `source`, a run or pipeline folder."""
    networks, signals = networks_of(pipe), getattr(pipe, "makes_signals", False)
    return ModelFacts(
        name=name,
        pipeline=type(pipe).__name__,
        networks=tuple(_network(part, network, signals) for part, network in networks.items()),
        scheduler=_scheduler(pipe.components.get("scheduler")),
        generates=can_generate(pipe),
        paper=paper_of(networks.values()),
        signals=signals,
        stages=_stages(source),
        origin=_origin(source),
        results=results,
        licence=licence,
        packages={package: version(package) for package in _PACKAGES},
    )


def can_generate(pipe: Any) -> bool:
    """Return whether a pipeline generates images; an autoencoder without a prior does not."""
    vae = pipe.components.get("vae")
    return vae is None or hasattr(vae, "generate")


def _network(part: str, network: Any, signals: bool) -> NetworkFacts:
    config: Mapping[str, Any] = network.config
    image = (config.get("in_channels"), config.get("sample_size"))
    return NetworkFacts(
        part=part,
        kind=type(network).__name__,
        parameters=network.num_parameters(),
        spiking_steps=config.get("spiking_steps"),
        neuron_layers=sum(isinstance(module, SpikeEmitter) for module in network.modules()),
        image=None if signals or None in image else image,  # type: ignore[arg-type]
        levels=config.get("levels"),
        classes=number_of_classes(network),
    )


_SETTINGS = "num_train_timesteps", "beta_schedule", "prediction_type", "temperature", "unmasking"


def _scheduler(scheduler: Any) -> dict[str, Any] | None:
    if scheduler is None:
        return None
    known = {key: scheduler.config[key] for key in _SETTINGS if key in scheduler.config}
    return {"class": type(scheduler).__name__, **known}


def _stages(source: Path) -> tuple[Stage, ...]:
    """Return the run of a folder, preceded by the run of its first stage, if they exist."""
    folder = RunFolder(source)
    if not folder.recipe.is_file():
        return ()
    recipe = load_run_recipe(source)
    packages, commit = _environment(folder.environment)
    stage = Stage(shareable(recipe), trained_steps(folder, recipe), packages, commit)
    first = () if recipe.first_stage is None else _stages(first_stage_folder(recipe, source))
    return (*first, stage)


def _environment(path: Path) -> tuple[dict[str, str], str | None]:
    """Return the versions and the commit that a run recorded, if any."""
    told = read_json(path) if path.exists() else {}
    packages = told.get("packages", {}) if isinstance(told, dict) else None
    commit = told.get("git_commit") if isinstance(told, dict) else None
    texts = [commit, *packages, *packages.values()] if isinstance(packages, dict) else [0]
    if not all(text is None or isinstance(text, str) for text in texts):
        raise UserError(f"{path}: is damaged; delete it, and the card omits the versions")
    stated = {name: text for name, text in (packages or {}).items() if text is not None}
    return stated, commit


def trained_steps(folder: RunFolder, recipe: Recipe) -> int | None:
    """Return the number of optimizer steps of the weights that a run folder loads.

    For a finished run, it is the number in the recipe. A run that was resumed with more steps and
    has not reached them still has the earlier pipeline, whose number of steps is unknown.
    """
    if not folder.pipeline.is_dir():
        kept = load_latest(folder.checkpoints)
        return None if kept is None else kept.step
    points = read_curve(folder.root / "loss.csv")
    finished = bool(points) and points[-1].step == recipe.training.steps
    return recipe.training.steps if finished else None


def shareable(recipe: Recipe) -> Recipe:
    """Return a recipe without paths of the machine that it ran on.

    Example:
        >>> from spikediff.training import recipe_from
        >>> mine = recipe_from({"data": {"data_dir": "/home/me/data"}, "init_from": "runs/a"}, "")
        >>> shareable(mine).data.data_dir is None, shareable(mine).init_from
        (True, 'a')
    """

    def name_of(path: str | None) -> str | None:
        return None if path is None else Path(path).name

    data = replace(recipe.data, data_dir=None, dataset=public_name(recipe.data.dataset))
    first = recipe.first_stage
    shipped = first is not None and not Path(first).exists()  # `system/dataset` names no file
    return replace(
        recipe,
        data=data,
        init_from=name_of(recipe.init_from),
        first_stage=first if shipped else name_of(first),
    )


_FILES, _NO_FILE = ("checkpoint", "first_stage"), {"file": "", "sha256": ""}


def _origin(source: Path) -> dict[str, Any] | None:
    path = source / "origin.json"
    if not path.exists():
        return None
    origin: dict[str, Any] = read_json(path)
    parts = [origin.get(key, _NO_FILE) for key in _FILES] if isinstance(origin, dict) else [None]
    whole = all(isinstance(part, dict) and _NO_FILE.keys() <= part.keys() for part in parts)
    if not whole or not isinstance(origin.get("system"), str):
        raise UserError(f"{path}: is damaged; `spikediff import` writes it again")
    return origin
