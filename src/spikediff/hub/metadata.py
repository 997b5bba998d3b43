"""The front matter of a card: what the Hub reads, files and counts by."""

from collections.abc import Iterator

from huggingface_hub import EvalResult, ModelCardData

from spikediff.data import DATASETS
from spikediff.data.unlisted import HUB_PREFIX
from spikediff.hub.facts import ModelFacts

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
