r"""A generator of 1 to 4 calls: distil a network's own samples, then close the gap.

    python benchmarks/few_calls.py RUN --calls 1 --data-dir DIR --feature-weights DIR --output OUT

The network is of our integer system, or its ordinary counterpart (activation: silu).

First the network learns, from the noise of a seed, the image that it made of it with 20 calls: mean
squared error of the pixels and of the classifier's last feature map. Then it minimises the Frechet
distance (arXiv 2604.28190) between generated and real images in the space of the classifier and of
14x14 pixels: moments over a queue, gradients through the newest batch. All calls of a sample are
differentiated; the sampler is DDIM. FAD is of another network and stays unseen. Training is
compiled, in bf16 on a GPU and on a CPU that has units for it.

The pipelines, the integer ones in integer arithmetic, are written to --output; the distances to the
test split after both parts are written to --json. Judged images have seeds that no pair had. With
--num-samples 0 nothing is judged.
"""

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor, nn
from torch.nn import functional as F

import spikediff as sd
from spikediff.data import load_images, to_model_range
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.exact_timesteps import visiting
from spikediff.diffusion.loop import denoise
from spikediff.evaluation.features.classifier import SmallClassifier, load_classifier
from spikediff.systems.integer import to_integer
from spikediff.training.computation import cpu_has_bf16, prepare_computation
from spikediff.training.recipe import TrainingRecipe

CLASSES, TEACHER_CALLS, SIDE = 10, 20, 14
ORDINARY = "silu"  # the activation of the ordinary counterpart
CLASS_WEIGHT = 0.1  # of the cross entropy of the class asked for
UNSEEN = 1_000_000  # the first seed of the images that are judged; pairs have the seeds from 0 on
PROTOCOL = Path(__file__).parent / "headline_protocol.yaml"


class Generator:
    """A network and its DDIM steps, as one differentiable function of noise and class."""

    def __init__(self, unet: Any, sampler: Any, calls: int) -> None:
        self.unet = unet
        self.sampler = visiting(sampler, calls)
        self.device = unet.device
        self.reduced = self.device.type != "cpu" or cpu_has_bf16()
        prepare_computation(unet, TrainingRecipe(compile=True), self.device)

    def __call__(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Return images [B, C, H, W]."""

        def estimate(x: Tensor, timestep: Any) -> Tensor:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.reduced):
                sample: Tensor = self.unet(x, timestep, labels).sample
            return sample.float()

        noise, labels = noise.to(self.device), labels.to(self.device)
        return denoise(estimate, self.sampler, noise, self.sampler.timesteps, {})


class Spaces(nn.Module):
    """What generated images are compared in: the classifier's features, and small images."""

    def __init__(self, classifier: SmallClassifier) -> None:
        super().__init__()
        self.classifier = classifier.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return features [B, D] by name, and logits [B, K]."""
        grid = self.classifier.convolutions(images).flatten(1)
        features = F.relu(self.classifier.penultimate(grid))
        small = F.adaptive_avg_pool2d(images, SIDE).flatten(1)
        spaces = {"grid": grid, "penultimate": features, "pixels": small}
        return spaces, self.classifier.classify(features)


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean [D] and covariance [D, D] of features [N, D]."""
    mean = features.mean(dim=0)
    centred = features - mean
    return mean, centred.T @ centred / (len(features) - 1)


class Distance:
    """The Frechet distance to fixed real moments, relative to the spread of the real features."""

    def __init__(self, real: Tensor) -> None:
        self.mean, covariance = moments(real.double())
        self.spread = covariance.trace()
        values, vectors = torch.linalg.eigh(covariance)
        self.root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T

    def __call__(self, features: Tensor) -> Tensor:
        """Return the distance of features [N, D], differentiable."""
        mean, covariance = moments(features.double())
        inner = self.root @ covariance @ self.root
        jitter = 1e-8 * self.spread * torch.eye(len(mean)).to(inner)
        root = torch.linalg.eigvalsh(inner + jitter).clamp(min=1e-12).sqrt().sum()
        shift = (mean - self.mean).square().sum()
        return ((shift + covariance.trace() + self.spread - 2 * root) / self.spread).float()


def deployed(unet: Any, sampler: Any) -> SpikingDiffusionPipeline:
    """Return a pipeline with the deployment form of a network, or an ordinary network as it is."""
    if unet.config.activation == ORDINARY:
        return SpikingDiffusionPipeline(unet, sampler)
    return SpikingDiffusionPipeline(to_integer(unet), sampler)


def teach(source: Path, count: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return noise, classes and the images made of them.

    A CPU makes them with the deployment form, a GPU with the network in float32.
    """
    pipe = form = sd.load(source)
    if device.type == "cpu":
        form = deployed(pipe.unet, pipe.scheduler)
        if pipe.unet.config.activation != ORDINARY:
            form.compile_for_inference()
    form.to(device).set_progress_bar_config(disable=True)
    labels = torch.arange(count) % CLASSES
    noise, images = [], []
    for part in torch.arange(count).split(250):
        generators = [torch.Generator().manual_seed(int(seed)) for seed in part]
        shape = (1, *(pipe.unet.config.in_channels, *(pipe.unet.config.sample_size,) * 2))
        x = torch.cat([torch.randn(shape, generator=g) for g in generators])
        made = form(
            latents=x,
            class_labels=labels[part].tolist(),
            num_inference_steps=TEACHER_CALLS,
            output_type="pt",
        ).images
        noise.append(x)
        images.append(made.cpu() * 2 - 1)
    return torch.cat(noise), labels, torch.cat(images)


def distil(generator: Generator, spaces: Spaces, pairs: tuple[Tensor, ...], args: Any) -> None:
    """Train the generator to give the teacher's image of the same noise."""
    noise, labels, images = pairs
    optimizer, schedule = optimizer_of(generator, args.learning_rate, args.distil_steps)
    order = torch.Generator().manual_seed(args.seed)
    for step in range(args.distil_steps):
        part = torch.randint(len(noise), (args.batch_size,), generator=order)
        made, target = generator(noise[part], labels[part]), images[part].to(generator.device)
        with torch.no_grad():
            wanted = spaces(target)[0]["grid"]
        apart = F.mse_loss(spaces(made)[0]["grid"], wanted) / wanted.var()
        loss = F.mse_loss(made, target) + 0.1 * apart
        update(loss, generator, optimizer, schedule, step, "distil")


def close_gap(generator: Generator, spaces: Spaces, real: Tensor, args: Any) -> None:
    """Minimise the Frechet distance to real images, over a queue of generated ones."""
    with torch.no_grad():
        parts = [spaces(to_model_range(part).to(generator.device))[0] for part in real.split(500)]
    distances = {key: Distance(torch.cat([part[key] for part in parts])) for key in parts[0]}
    order = torch.Generator().manual_seed(args.seed + 1)
    shape = (args.batch_size, *real.shape[1:])

    def make() -> tuple[dict[str, Tensor], Tensor, Tensor]:
        labels = torch.randint(CLASSES, (args.batch_size,), generator=order)
        found, logits = spaces(generator(torch.randn(shape, generator=order), labels))
        return found, logits, labels.to(generator.device)

    queue: list[dict[str, Tensor]] = []
    with torch.no_grad():
        queue = [make()[0] for _ in range(args.queue // args.batch_size)]
    optimizer, schedule = optimizer_of(generator, args.learning_rate / 2, args.frechet_steps)
    for step in range(args.frechet_steps):
        found, logits, labels = make()
        queue = [*queue[1:], found]
        apart = [of(torch.cat([part[key] for part in queue])) for key, of in distances.items()]
        share = len(queue)  # the newest batch is one part of so many
        loss = share * torch.stack(apart).sum() + CLASS_WEIGHT * F.cross_entropy(logits, labels)
        update(loss, generator, optimizer, schedule, step, "frechet")
        queue[-1] = {key: value.detach() for key, value in found.items()}


def optimizer_of(generator: Generator, rate: float, steps: int) -> tuple[Any, Any]:
    """Return AdamW with a rate that rises for 100 steps and falls to zero."""
    optimizer = torch.optim.AdamW(generator.unet.parameters(), rate, (0.9, 0.99), weight_decay=0.0)
    scale = lambda step: min(1.0, (step + 1) / 100) * max(0.0, 1 - step / steps)  # noqa: E731
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, scale)


def update(loss: Tensor, generator: Generator, opt: Any, rate: Any, step: int, name: str) -> None:
    """Take one step of the optimiser."""
    opt.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(generator.unet.parameters(), 1.0)
    opt.step()
    rate.step()
    if step % 100 == 0:
        print(f"{name} {step}: {loss.item():.4f}", flush=True)


def judge(unet: Any, sampler: Any, folder: Path, args: Any) -> dict[str, float]:
    """Save the deployment form with its sampler and return its metrics."""
    deployed(copy.deepcopy(unet).cpu(), sampler).save_pretrained(folder)
    if not args.num_samples:
        return {}
    found = sd.evaluate(
        folder,
        protocol=str(PROTOCOL),
        dataset=args.dataset,
        data_dir=args.data_dir,
        feature_weights=args.feature_weights,
        num_inference_steps=args.calls,
        num_samples=args.num_samples,
        seed=UNSEEN,
        batch_size=250,
    )
    return {key: value["mean"] for key, value in found["metrics"].items()}


def main() -> None:
    """Distil, close the gap, judge after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--calls", type=int, default=1)
    parser.add_argument("--dataset", choices=("mnist", "fashion-mnist"), default="mnist")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--feature-weights", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--distil-steps", type=int, default=2000)
    parser.add_argument("--frechet-steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--queue", type=int, default=8192)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-samples", type=int, default=10_000)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    whole = load_images(args.dataset, "train", data_dir=args.data_dir)
    real = load_images(args.dataset, "train", data_dir=args.data_dir, held_out=False).stack()
    classifier: Any = load_classifier(whole, cache_dir=args.output)._module
    spaces = Spaces(classifier).to(args.device)
    pipe = sd.load(args.source)
    unet = pipe.unet.eval().to(args.device)
    sampler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    generator = Generator(unet, sampler, args.calls)
    pairs_file = args.output / "pairs.pt"
    if not pairs_file.exists():
        torch.save(teach(args.source, args.pairs, args.device), pairs_file)
    distil(generator, spaces, torch.load(pairs_file), args)
    report = {
        "calls": args.calls,
        "distilled": judge(unet, sampler, args.output / "distilled", args),
    }
    print(report, flush=True)
    if args.frechet_steps:
        close_gap(generator, spaces, real, args)
        report["frechet"] = judge(unet, sampler, args.output / "frechet", args)
        print(report, flush=True)
    if args.json:
        facts = {key: str(value) for key, value in vars(args).items() if "dir" not in key}
        args.json.write_text(json.dumps({**report, "settings": facts}, indent=1) + "\n")


if __name__ == "__main__":
    main()
