"""The deployment form of the integer network beside its ordinary counterpart in other runtimes.

All rows are seconds of one network call of a batch, in a warm cache: small batches are called again
and again. `ours delta` is the mean over the calls of a generation, its first included; `ours delta,
nothing changes` is a call that repeats the one before it, so it is what such a call costs at least.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from performance import runtime_peers
from performance.missing import Missing
from performance.settings import Settings
from performance.sources import RANDOM, pipeline_at, settle_norms
from performance.table import Group, available, times
from performance.timing import repeat
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.events import compile_for_inference
from spikediff.native import native_name
from spikediff.systems.integer import DeployedIntegerUNet, IntegerSpikingUNet, to_integer
from spikediff.systems.integer.plan import has_kernels

BATCHES = (1, 16, 64)
CALLS = (10, 20, 50)
FEWEST_IMAGES = 20  # of a measurement, in calls one after the other
MNIST: dict[str, Any] = {
    "sample_size": 28,
    "patch_size": 2,
    "block_out_channels": (48, 96),
    "num_classes": 10,
}

Trajectory = list[tuple[Tensor, Tensor]]  # x_t and t of every call


def measure(settings: Settings) -> Iterator[Group]:
    """Measure the network of the run that was named, or one of random weights."""
    try:
        weights, pipe = _pipeline(settings)
    except Missing as reason:
        print(f"\ninteger: -- {reason}")
        return
    ordinary = pipe.unet.ann_counterpart().eval()
    for batch in BATCHES[:2] if settings.quick else BATCHES:
        yield _compare(weights, pipe, ordinary, batch, settings)


def _pipeline(settings: Settings) -> tuple[str, Any]:
    """Return whose weights they are, and a pipeline of a deployment form."""
    if settings.integer is None:
        torch.manual_seed(0)
        unet = IntegerSpikingUNet(**MNIST)
        nn.init.normal_(unet.head.weight, std=0.1)
        settle_norms(unet, torch.randn(16, 1, 28, 28), 500)
        pipe: Any = SpikingDiffusionPipeline(to_integer(unet), make_scheduler("unipc"))
        pipe.set_progress_bar_config(disable=True)
        return RANDOM, pipe
    pipe = pipeline_at(settings.integer)
    if isinstance(pipe.unet, IntegerSpikingUNet):
        pipe.unet = to_integer(pipe.unet)
    if not isinstance(pipe.unet, DeployedIntegerUNet):
        raise Missing(f"{settings.integer.name}: holds no integer network")
    return f"trained, {settings.integer.name}", pipe


def trajectory(pipe: Any, images: int, calls: int) -> Trajectory:
    """Return what the network sees while images are generated."""
    config = pipe.unet.config
    size = (images, config.in_channels, config.sample_size, config.sample_size)
    first = torch.randn(size, generator=torch.Generator().manual_seed(0))
    seen = [first]

    def watch(_: Any, __: int, ___: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(state["sample"].clone())
        return {}

    pipe(
        latents=first,
        batch_size=images,
        num_inference_steps=calls,
        output_type="pt",
        callback_on_step_end=watch,
    )
    return list(zip(seen[:-1], pipe.scheduler.timesteps.clone(), strict=True))


def _compare(weights: str, pipe: Any, ordinary: nn.Module, batch: int, settings: Settings) -> Group:
    paths = {n: trajectory(pipe, batch, n) for n in (CALLS[:1] if settings.quick else CALLS)}
    sample, timestep = paths[CALLS[0]][CALLS[0] // 2]
    labels = torch.full((batch,), max(0, pipe.unet.config.num_classes - 1))
    inputs = (sample, timestep.expand(batch).contiguous(), labels)
    by_counts = _compiled(pipe.unet, "counts")
    makers: dict[str, Callable[[], Any]] = {
        "ordinary, eager": lambda: partial(_no_grad, ordinary, *inputs),
        "ONNX Runtime": partial(runtime_peers.onnxruntime, ordinary, inputs, settings.threads),
        **{
            f"OpenVINO {precision}": partial(
                runtime_peers.openvino, ordinary, inputs, settings.threads, precision
            )
            for precision in ("f32", "bf16", "int8")
        },
        "integer, eager": lambda: partial(pipe.unet, sample, timestep),
        "ours counts": lambda: partial(by_counts, sample, timestep),
    }
    runs, missing = available(makers)
    calls = dict.fromkeys(runs, -(-FEWEST_IMAGES // batch))
    for key, many in calls.items():
        runs[key] = partial(repeat, runs[key], many)
    if "ours counts" in runs:
        for n, path in paths.items():
            runs[f"ours delta, {n} calls"] = partial(generate, _compiled(pipe.unet, "delta"), path)
            calls[f"ours delta, {n} calls"] = n
        again = _again(_compiled(pipe.unet, "delta"), sample, timestep)
        runs["ours delta, nothing changes"] = partial(repeat, again, calls["ours counts"])
        calls["ours delta, nothing changes"] = calls["ours counts"]
    facts = {
        "weights": weights,
        "kernels": native_name(),
        "peers": ", ".join(f"{n} {v}" for n, v in runtime_peers.versions().items()),
    }
    patience = settings.patience(31, 40)
    title = f"a call of {batch} images"
    return times("integer", title, runs, patience, missing, facts, calls=calls)


def _compiled(form: DeployedIntegerUNet, execution: str) -> Any:
    if not has_kernels():
        raise Missing("no C kernels for this processor")
    return compile_for_inference(form.with_execution(execution))


def generate(form: Any, path: Trajectory) -> None:
    """Call a form along a trajectory; `delta` goes on from call to call."""
    state = None
    for sample, timestep in path:
        state = form(sample, timestep, state=state).state


def _again(form: Any, sample: Tensor, timestep: Tensor) -> Callable[[], None]:
    """Return what calls a form with the input that it has just seen."""
    state = form(sample, timestep).state

    def run() -> None:
        nonlocal state
        state = form(sample, timestep, state=state).state

    return run


@torch.no_grad()
def _no_grad(network: nn.Module, *inputs: Tensor) -> Any:
    return network(*inputs)
