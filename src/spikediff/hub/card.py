"""The picture of a card: what the run drew at its end, or what the pipeline draws now.

The front matter of a card: what the Hub reads, files and counts by.

The card of a model: what it is and what was measured of it; what was not, it says so.

The text is made of facts alone (`describe`); a section is a function from the facts to
Markdown.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from PIL import Image

from spikediff.data import DATASETS
from spikediff.data.decoding import read_image
from spikediff.data.folder import HUB_PREFIX
from spikediff.diffusion.classes import classes_in_turn
from spikediff.diffusion.outputs import image_grid
from spikediff.hub.describe import ModelFacts, Stage
from spikediff.hub.results import own_file

_BATCH = 16  # images at a time; it does not change them


@dataclass(frozen=True)
class Picture:
    """A grid of images and what it shows.

    Attributes:
        image: The grid.
        caption: What it shows, without a full stop.
    """

    image: Image.Image
    caption: str


def choose_picture(
    facts: ModelFacts, source: Path, pipe: Any, num_inference_steps: int, count: int = 64
) -> Picture | None:
    """Return the grid that a run drew with the weights that it left, else one drawn now.

    Args:
        facts: What is known of the model.
        source: The run's folder.
        pipe: The pipeline.
        num_inference_steps: Network calls per image of a grid that is drawn now.
        count: Its images.

    Returns:
        The picture; None of an autoencoder that only reconstructs, whose run draws training images.
    """
    if not facts.generates:
        return None
    if facts.stages and (drawn := _drawn_by_run(facts, source)) is not None:
        return drawn
    images: list[Image.Image] = []
    for first in range(0, count, _BATCH):
        seeds = range(first, min(first + _BATCH, count))
        told = classes_in_turn(pipe, seeds)
        images += pipe(seeds=seeds, num_inference_steps=num_inference_steps, **told).images
    return Picture(image_grid(images), f"{_images_of(facts, count)}, not selected")


def _images_of(facts: ModelFacts, count: int) -> str:
    in_turn = ", of the classes in turn" if any(part.classes for part in facts.networks) else ""
    return f"Images of the seeds 0 to {count - 1}{in_turn}"


def _drawn_by_run(facts: ModelFacts, source: Path) -> Picture | None:
    stage = facts.stages[-1]
    path = source / "samples" / f"step-{stage.steps or 0:08d}.png"
    if stage.steps is None or not path.is_file():
        return None
    sampling = stage.recipe.sampling
    return Picture(
        read_image(own_file(path, source)),
        f"{_images_of(facts, sampling.num_images)}, not selected, drawn at the end of the "
        f"training in {sampling.num_inference_steps} steps",
    )


TASK = "unconditional-image-generation"


def card_data(facts: ModelFacts) -> ModelCardData:
    """Return the front matter; a key of which nothing is known is left out.

    Args:
        facts: What is known of the model.
    """
    results = list(_eval_results(facts))
    return ModelCardData(
        model_name=facts.name,
        library_name="diffusers",
        pipeline_tag=TASK if facts.generates else None,
        license=facts.licence,
        datasets=sorted(_hub_datasets(facts)) or None,
        tags=_tags(facts),
        metrics=sorted({result.metric_type for result in results}) or None,
        eval_results=results or None,
    )


def hub_dataset(name: str) -> str | None:
    """Return the Hub's name of a data set; None where it has none.

    Args:
        name: The name in a recipe, public.

    Example:
        >>> hub_dataset("mnist"), hub_dataset("hf:some/images"), hub_dataset("folder:cats")
        ('ylecun/mnist', 'some/images', None)
    """
    if name.startswith(HUB_PREFIX):
        return name.removeprefix(HUB_PREFIX)
    return DATASETS[name].hub_id if name in DATASETS else None


def _hub_datasets(facts: ModelFacts) -> set[str]:
    names = {hub_dataset(stage.recipe.data.dataset) for stage in facts.stages}
    return {name for name in names if name is not None}


def _tags(facts: ModelFacts) -> list[str]:
    spiking = any(network.neuron_layers for network in facts.networks)
    tags = ["spikediff"]
    tags += ["spiking-neural-network", "neuromorphic"] if spiking else []
    tags += ["diffusion"] if facts.scheduler is not None else ["autoencoder"]
    return tags + ([facts.paper.name.lower()] if facts.paper is not None else [])


def _eval_results(facts: ModelFacts) -> Iterator[EvalResult]:
    for evaluation in facts.results.evaluations:
        dataset, count = evaluation["dataset"], evaluation["counts"]["judged"]
        protocol = evaluation["protocol"]["name"]
        for name, value in evaluation["metrics"].items():
            yield EvalResult(
                task_type=TASK,
                dataset_type=hub_dataset(dataset) or dataset,
                dataset_name=dataset,
                dataset_split=evaluation["reference"]["split"],
                metric_type=name.rpartition("/")[2],
                metric_name=f"{name} (protocol {protocol}, {count} images)",
                metric_value=value["mean"],
            )


NOT_MEASURED = "not measured"
NOT_STATED = "not stated"
GRID = "samples.png"


def model_card(facts: ModelFacts, repository: str, picture: Picture | None = None) -> ModelCard:
    """Write the card of a model.

    Args:
        facts: What is known of it.
        repository: USER/NAME on the Hub, for the example.
        picture: What lies beside the card as `samples.png`; None without a picture.

    Returns:
        The card, with front matter that the Hub understands.
    """
    parts = [f"# {facts.name}\n\n{_summary(facts)}"]
    if picture is not None:
        parts.append(f"![{picture.caption}]({GRID})\n\n*{picture.caption}*")
    parts.append(_loading(facts, repository))
    parts += [f"## {title}\n\n{section(facts)}" for title, section in _SECTIONS.items()]
    front = card_data(facts).to_yaml()
    body = "\n\n".join(parts)
    return ModelCard(f"---\n{front}\n---\n\n{body}\n")


def _summary(facts: ModelFacts) -> str:
    does = "generates images" if facts.generates else "turns images into tokens and back"
    system = "" if facts.paper is None else f" of the system {facts.paper.name}"
    spiking = "spiking " if any(network.neuron_layers for network in facts.networks) else ""
    return f"A {spiking}model{system} that {does}, made with spikediff and saved for diffusers."


def _loading(facts: ModelFacts, repository: str) -> str:
    use = (
        "pipe(seeds=range(16)).images            # one seed per image"
        if facts.generates
        else "pipe.reconstruct(images)                # images [B, C, H, W] in [-1, 1]"
    )
    if classes := max((network.classes for network in facts.networks), default=0):
        use += "\npipe(seeds=range(16), class_labels=0).images"
        use += f"    # one of the classes 0 to {classes - 1}"
    return f"""## How to load it

```python
from spikediff.systems.pipelines import {facts.pipeline}

pipe = {facts.pipeline}.from_pretrained("{repository}")
{use}
```

Plain diffusers loads it too, where the package spikediff is installed; the code in this repository
is one import per file, and `trust_remote_code=True` lets diffusers run it:

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("{repository}", trust_remote_code=True)
```"""


def _model(facts: ModelFacts) -> str:
    rows = []
    for network in facts.networks:
        steps = "none" if network.spiking_steps is None else f"T = {network.spiking_steps}"
        image = "-" if network.image is None else "{0} x {1} x {1}".format(*network.image)
        rows.append(
            f"| {network.part} | {network.kind} | {network.parameters:,} | {steps} | "
            f"{network.neuron_layers} | {image} |"
        )
    head = "| part | class | parameters | spiking steps | layers of neurons | images |"
    table = "\n".join([head, "|---|---|---|---|---|---|", *rows])
    if facts.scheduler is None:
        return f"{table}\n\nNo scheduler: one call makes an image."
    settings = ", ".join(f"{k} {v}" for k, v in facts.scheduler.items() if k != "class")
    return f"{table}\n\nScheduler: {facts.scheduler['class']} ({settings})."


def _training(facts: ModelFacts) -> str:
    if facts.origin is not None:
        return _told_origin(facts.origin)
    if not facts.stages:
        return f"Data set, steps and seed: {NOT_STATED} (there is no run beside the weights)."
    return "\n\n".join(
        _told_stage(stage, i, len(facts.stages)) for i, stage in enumerate(facts.stages)
    )


def _told_origin(origin: dict[str, Any]) -> str:
    files = ", ".join(
        f"`{origin[key]['file']}` (SHA-256 {origin[key]['sha256']})"
        for key in ("checkpoint", "first_stage")
        if key in origin
    )
    return (
        f"Not trained with spikediff: imported with `spikediff import --system {origin['system']}` "
        f"from {files}. Data set, steps and seed: {NOT_STATED}."
    )


def _told_stage(stage: Stage, index: int, count: int) -> str:
    recipe, data = stage.recipe, stage.recipe.data
    split = "train" + (" without its held-out tenth" if data.hold_out else "")
    steps = NOT_STATED if stage.steps is None else f"{stage.steps:,}"
    seen = NOT_STATED if stage.images_seen is None else f"{stage.images_seen:,}"
    optimizer = recipe.optimizer
    rows = {
        "data set": data.dataset,
        "split": split,
        "optimizer steps": steps,
        "images seen": f"{seen} (batches of {data.batch_size})",
        "optimizer": f"{optimizer.name}, lr {optimizer.lr:g}, {optimizer.schedule}",
        "loss": recipe.loss.name,
        "average of the weights": f"decay {recipe.ema.decay:g}" if recipe.ema.decay else "none",
        "precision": {"no": "float32"}.get(
            recipe.training.mixed_precision, recipe.training.mixed_precision
        ),
        "seed": recipe.seed,
        "started from": recipe.init_from or "random weights",
        "recipe": f"`{recipe_file(index, count)}`",
        "versions": _told_packages(stage.packages),
        "commit of spikediff": stage.commit or NOT_STATED,
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    stage_name = "" if count == 1 else f"Stage {index + 1} of {count}, `{recipe.name}`:\n\n"
    return f"{stage_name}| | |\n|---|---|\n{table}"


def recipe_file(index: int, count: int) -> str:
    """Return the name of a stage's recipe in the repository.

    Example:
        >>> recipe_file(0, 1), recipe_file(0, 2), recipe_file(1, 2)
        ('recipe.yaml', 'recipe-stage-1.yaml', 'recipe.yaml')
    """
    return "recipe.yaml" if index == count - 1 else f"recipe-stage-{index + 1}.yaml"


def _told_packages(packages: Any) -> str:
    known = [f"{name} {version}" for name, version in packages.items() if version is not None]
    return ", ".join(known) or NOT_STATED


def _quality(facts: ModelFacts) -> str:
    if not facts.results.evaluations:
        return f"Quality: {NOT_MEASURED}. `spikediff evaluate` measures it."
    return "\n\n".join(map(_told_evaluation, facts.results.evaluations))


def _told_evaluation(result: dict[str, Any]) -> str:
    protocol, counts, source = result["protocol"], result["counts"], result["source"]
    seeds = result.get("seeds")
    told = [
        f"{counts['judged']} images"
        + (f" of the seeds {seeds['first']} to {seeds['last']}" if seeds else "")
        + (f", {counts['repeats']} repeats" if counts["repeats"] > 1 else ""),
        f"against {counts['reference']} of {result['dataset']}/{result['reference']['split']}",
    ]
    if source.get("scheduler"):
        told.append(f"{source['scheduler']}, {source['num_inference_steps']} steps")
    if source.get("guidance_scale") is not None:
        told.append(f"guidance scale {source['guidance_scale']}")
    if source.get("class_labels") is not None:
        told.append(f"class labels {source['class_labels']}")
    if source.get("threshold") is not None:
        told.append(f"threshold guidance {source['threshold']}")
    if "weights_sha256" not in source:
        told.append("the result does not name the weights that it was measured on")
    rows = [
        f"| {name} | {_spread(value)} | {result['floor'][name]:.5g} |"
        for name, value in result["metrics"].items()
    ]
    notes = [f"- {note}" for note in [protocol["caveat"], *result.get("notes", [])]]
    head = f"| metric | this model | real images ({protocol['floor_split']}) |\n|---|---|---|"
    table = "\n".join([head, *rows])
    return f"Protocol `{protocol['name']}`: {'; '.join(told)}.\n\n{table}\n\n" + "\n".join(notes)


def _spread(value: dict[str, Any]) -> str:
    spread = "" if value.get("std") is None else f" ± {value['std']:.3g}"
    return f"{value['mean']:.5g}{spread}"


def _energy(facts: ModelFacts) -> str:
    if not facts.results.energies:
        return f"Energy and firing rates: {NOT_MEASURED}. `spikediff energy` measures them."
    head = (
        "| accounting | prices | images | denoising steps | energy per image [uJ] | "
        "energy per step [uJ] | MACs per image | accumulates per image | neurons that fire |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )
    rows = "\n".join(map(_energy_row, facts.results.energies))
    return (
        f"{head}\n{rows}\n\nCounted from the operations of real generations and priced by a table; "
        "not measured on a device. Memory traffic is not in it. *strict* bills every real-valued "
        "input as a multiplication; *paper* is the estimate that SDDPM's paper uses.\n\n"
        + _firing_rates(facts.results.energies[0])
    )


def _energy_row(energy: dict[str, Any]) -> str:
    images = energy["images"]
    changed = energy.get("synapses") not in (None, "trained")
    accounting = energy["accounting"] + (f", {energy['synapses']} synapses" if changed else "")
    if energy.get("threshold") is not None:
        accounting += f", threshold {energy['threshold']}"
    return (
        f"| {accounting} | {energy['costs']['name']} | {images} | {len(energy['timesteps'])} | "
        f"{energy['energy_per_image_pj'] / 1e6:,.3f} | {energy['energy_per_step_pj'] / 1e6:,.3f} | "
        f"{energy['macs'] / images:,.0f} | {energy['acs'] / images:,.0f} | "
        f"{energy['firing_rate']:.1%} |"
    )


def _firing_rates(energy: dict[str, Any]) -> str:
    rates = energy["firing_rates"]
    if not rates:
        return "The model has no neurons that fire."
    rows = "\n".join(f"| {layer} | {rate:.1%} |" for layer, rate in rates.items())
    return (
        f"Firing rates of the {len(rates)} layers of neurons: {min(rates.values()):.1%} to "
        f"{max(rates.values()):.1%}.\n\n<details><summary>Every layer</summary>\n\n"
        f"| layer | rate |\n|---|---|\n{rows}\n\n</details>"
    )


def _use(facts: ModelFacts) -> str:
    datasets = sorted({stage.recipe.data.dataset for stage in facts.stages})
    shows = f" It knows images of {' and '.join(datasets)}" if datasets else " It knows its images"
    return (
        "Made for research on spiking and neuromorphic image generation: comparing systems, "
        f"solvers and energy accountings.{shows} and nothing else. Nobody has checked it for "
        "copies of training images, for bias, or for use in a product, unless this card says so. "
        "Numbers compare with others of the same protocol only."
    )


def _licences(facts: ModelFacts) -> str:
    lines = [f"- Weights: {facts.licence or NOT_STATED}."]
    for name in sorted({stage.recipe.data.dataset for stage in facts.stages}):
        known = DATASETS[name].licence if name in DATASETS else None
        lines.append(f"- Data set {name}: {known or NOT_STATED}.")
    return "\n".join([*lines, "- The code of spikediff: Apache-2.0."])


def _citation(facts: ModelFacts) -> str:
    if facts.paper is None:
        return "Name spikediff, and the paper of the system."
    return f"Name spikediff, and the paper of the system:\n\n```bibtex\n{facts.paper.bibtex()}\n```"


def _versions(facts: ModelFacts) -> str:
    return f"This repository was written with {_told_packages(facts.packages)}."


_SECTIONS: dict[str, Callable[[ModelFacts], str]] = {
    "The model": _model,
    "Training": _training,
    "Quality": _quality,
    "Energy": _energy,
    "Intended use and limits": _use,
    "Licences": _licences,
    "Citation": _citation,
    "Versions": _versions,
}
