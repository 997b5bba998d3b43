"""The ordinary counterpart, quantised to 8 bits by NNCF and run by OpenVINO: quality and time.

    PYTHONPATH=benchmarks python benchmarks/quantised_counterpart.py RUN --data-dir DIR \
        --feature-weights DIR --steps 10 --output benchmarks/headline/mnist-ordinary-int8-10.json

RUN is a run with `model.activation: silu`. Weights and activations have 8 bits; NNCF calibrates on
inputs of the network while 32 images are generated. Judged by headline_protocol.yaml, as the rows
of headline.py; energy is that of the network with products of 8 x 8 bits (45nm-int8), strict. Needs
`make peers`.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import training_of

import spikediff as sd
from performance import runtime_peers
from performance.integer_section import trajectory
from spikediff.diffusion.classes import classes_in_turn
from spikediff.energy import EnergyMeter

BATCH, CALIBRATED, TIMED = 250, 32, 16
PROTOCOL = Path(__file__).parent / "headline_protocol.yaml"


class Output:
    """What a denoiser returns."""

    def __init__(self, sample: torch.Tensor) -> None:
        self.sample = sample


def quantised(unet: Any, seen: list[tuple[Any, Any]], classes: int, batch: int) -> Any:
    """Return a forward of OpenVINO at a batch size, calibrated on what the network saw."""
    samples = torch.cat([x for x, _ in seen])
    timesteps = torch.cat([t.expand(len(x)) for x, t in seen])
    labels = torch.arange(len(samples)) % classes
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))
    calibration = tuple(each[order].contiguous() for each in (samples, timesteps, labels))
    request = runtime_peers.openvino_request(unet, calibration, batch, 1, "int8", len(samples))

    def forward(x: torch.Tensor, t: Any, class_labels: torch.Tensor, **_: Any) -> Output:
        inputs = (x, torch.as_tensor(t).expand(len(x)).contiguous(), class_labels)
        found = request.infer([each.numpy() for each in inputs], share_inputs=True)
        return Output(torch.from_numpy(next(iter(found.values())).copy()))

    return forward


def generate(pipe: Any, steps: int, count: int) -> np.ndarray:
    """Return images, uint8 [N, H, W, C], of seeds from 0 and classes in turn."""
    parts = []
    for first in range(0, count, BATCH):
        seeds = range(first, first + BATCH)
        told = classes_in_turn(pipe, seeds)
        made = pipe(seeds=seeds, num_inference_steps=steps, output_type="np", **told).images
        parts.append((made * 255).round().astype(np.uint8))
    return np.concatenate(parts)


def main() -> None:
    """Quantise, generate, judge, time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--feature-weights", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--num-samples", type=int, default=10_000)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pipe = sd.load(args.run)
    pipe.set_progress_bar_config(disable=True)
    with EnergyMeter(pipe) as meter:
        pipe(seeds=range(TIMED), num_inference_steps=args.steps, output_type="pt")
    energy = meter.report("strict", "45nm-int8").energy_per_image_pj / 1e6
    seen = trajectory(pipe, CALIBRATED, args.steps)
    classes = pipe.unet.config.num_classes
    network = pipe.unet
    network.forward = quantised(network, seen, classes, BATCH)
    images = generate(pipe, args.steps, args.num_samples)
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "images.npz", images=images)
        found = sd.evaluate(
            Path(folder) / "images.npz",
            protocol=str(PROTOCOL),
            dataset=args.dataset,
            data_dir=args.data_dir,
            feature_weights=args.feature_weights,
        )
    again = sd.load(args.run)
    again.set_progress_bar_config(disable=True)
    again.unet.forward = quantised(again.unet, seen, classes, TIMED)
    again(seeds=range(TIMED), num_inference_steps=2, output_type="pt")
    started = time.process_time()
    again(seeds=range(TIMED), num_inference_steps=args.steps, output_type="pt")
    report = {
        "metrics": found["metrics"],
        "floor": found["floor"],
        "counts": found["counts"],
        "peers": runtime_peers.versions(),
        "energy_per_image_uj": energy,
        "spiking_steps": 0,
        "seconds_per_image": (time.process_time() - started) / TIMED,
        "trained": training_of({"run": args.run}),
    }
    args.output.write_text(json.dumps(report, indent=1) + "\n")
    print({key: value["mean"] for key, value in found["metrics"].items()})


if __name__ == "__main__":
    main()
