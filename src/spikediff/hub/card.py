"""Model cards, which state what is known and measured, and what is not.

The text is in `card.md.jinja`; this module collects its contents.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from PIL import Image

from spikediff.data import DATASETS
from spikediff.data.decoding import read_image
from spikediff.data.folder import HUB_PREFIX
from spikediff.diffusion.classes import classes_in_turn
from spikediff.diffusion.outputs import image_grid, plot_signals
from spikediff.hub.describe import ModelFacts
from spikediff.hub.results import own_file

TASK = "unconditional-image-generation"
GRID = "samples.png"
_TEMPLATE = Path(__file__).with_name("card.md.jinja")
_SIGNALS = range(8)  # seeds of those that are plotted
_BATCH = 16  # images at a time; the number does not affect them


class Picture(NamedTuple):
    """A grid of images, and a caption without full stop."""

    image: Image.Image
    caption: str


def model_card(facts: ModelFacts, repository: str, picture: Picture | None = None) -> ModelCard:
    """Write the card of a model for a repository USER/NAME, with front matter for the Hub.

    `picture` is shown on the card and stored beside it as `samples.png`.
    """
    known = {name: DATASETS[name].licence for name in facts.datasets if name in DATASETS}
    card: ModelCard = ModelCard.from_template(
        card_data(facts),
        template_path=str(_TEMPLATE),
        **vars(facts),
        repository=repository,
        picture=picture,
        spiking=facts.spiking,
        classes=max((network.classes for network in facts.networks), default=0),
        recipes=facts.recipes,
        datasets={name: known.get(name) for name in facts.datasets},
    )
    return card


def card_data(facts: ModelFacts) -> ModelCardData:
    """Return the front matter; keys without a known value are omitted."""
    results = list(_eval_results(facts))
    tags = ["spikediff", *(["spiking-neural-network", "neuromorphic"] if facts.spiking else [])]
    tags.append("autoencoder" if facts.scheduler is None else "diffusion")
    return ModelCardData(
        model_name=facts.name,
        library_name="diffusers",
        pipeline_tag=TASK if facts.generates and not facts.signals else None,
        license=facts.licence,
        datasets=sorted(filter(None, map(hub_dataset, facts.datasets))) or None,
        tags=tags if facts.paper is None else [*tags, facts.paper.name.lower()],
        metrics=sorted({result.metric_type for result in results}) or None,
        eval_results=results or None,
    )


def hub_dataset(name: str) -> str | None:
    """Return the Hub's name of a data set; None if it has none.

    Example:
        >>> hub_dataset("mnist"), hub_dataset("hf:some/images"), hub_dataset("folder:cats")
        ('ylecun/mnist', 'some/images', None)
    """
    if name.startswith(HUB_PREFIX):
        return name.removeprefix(HUB_PREFIX)
    return DATASETS[name].hub_id if name in DATASETS else None


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


def choose_picture(
    facts: ModelFacts, source: Path, pipe: Any, num_inference_steps: int, count: int = 64
) -> Picture | None:
    """Return the grid, or plot of signals, that a run drew with its final weights, or draw one now.

    Return None for an autoencoder that only reconstructs.
    """
    if not facts.generates:
        return None
    in_turn = ", of the classes in turn" if any(part.classes for part in facts.networks) else ""
    kind = "Signals" if facts.signals else "Images"
    caption = f"{kind} of the seeds 0 to {{}}{in_turn}, not selected"
    if facts.stages and (stage := facts.stages[-1]).steps is not None:
        drawn = source / "samples" / f"step-{stage.steps:08d}.png"
        if drawn.is_file():
            sampling = stage.recipe.sampling
            at_the_end = f"drawn at the end of the training in {sampling.num_inference_steps} steps"
            caption = f"{caption.format(sampling.num_images - 1)}, {at_the_end}"
            return Picture(read_image(own_file(drawn, source)), caption)
    if facts.signals:
        call = {"num_inference_steps": num_inference_steps, **classes_in_turn(pipe, _SIGNALS)}
        signals = pipe(seeds=_SIGNALS, output_type="pt", **call).images.cpu()
        return Picture(plot_signals({"": signals}), caption.format(_SIGNALS[-1]))
    images: list[Image.Image] = []
    for first in range(0, count, _BATCH):
        seeds = range(first, min(first + _BATCH, count))
        classes = classes_in_turn(pipe, seeds)
        images += pipe(seeds=seeds, num_inference_steps=num_inference_steps, **classes).images
    return Picture(image_grid(images), caption.format(count - 1))
