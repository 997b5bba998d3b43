"""What fewer bits of weights cost an integer network, all together and block by block.

    PYTHONPATH=benchmarks python benchmarks/integer_weights.py RUN --data-dir DIR \
        --output benchmarks/integer_weights_mnist.json

Loss is that of `integer_table.py`, on the held-out tenth, relative to the float network's on the
same draws. "deployed" is the deployment form at 8, 6 and 4 bits. --fine-tuned RUNS are networks
trained with `model.weight_bits`, deployed at those bits. "blocks" is the float network with every
synapse rounded to 8 bits, and those of one block to 4. A row that is in the output is kept.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from integer_table import held_out_loss

import spikediff as sd
from spikediff.data import load_images, to_model_range
from spikediff.hub.run_data import find_dataset
from spikediff.systems.integer import IntegerSpikingUNet, to_integer
from spikediff.systems.integer.network import CountConv2d
from spikediff.systems.integer.weights import WEIGHT_BITS

FEW = 4


def convolutions(unet: IntegerSpikingUNet) -> dict[str, list[str]]:
    """Return the names of the convolutions of every block, by its name."""
    blocks: dict[str, list[str]] = {}
    for name, part in unet.named_modules():
        if isinstance(part, CountConv2d):
            block = name.split(".synapse")[0].split(".shortcut")[0]
            blocks.setdefault(block, []).append(name)
    return blocks


def rounded(unet: IntegerSpikingUNet, narrow: list[str]) -> IntegerSpikingUNet:
    """Return a copy of a network with 8-bit weights, and with 4 bits in some convolutions."""
    copy: IntegerSpikingUNet = unet.from_config(unet.config, weight_bits=8)
    copy.load_state_dict(unet.state_dict())
    for name in narrow:
        copy.get_submodule(name).weight_bits = FEW
    return copy.eval()


def fine_tuned(run: Path) -> Any:
    """Return the deployment form of a network, at the bits it was trained with."""
    unet = sd.load(run).unet
    return to_integer(unet, unet.config.weight_bits).compiled()


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--fine-tuned", type=Path, nargs="*", default=[])
    parser.add_argument("--dataset")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    pipe = sd.load(args.run)
    unet = pipe.unet
    noise = sd.make_scheduler("ddpm", pipe.scheduler.config)
    dataset, data_dir = find_dataset(args.run, args.dataset, args.data_dir)
    held = load_images(dataset, "train", data_dir=data_dir, held_out=True)
    labels = held.labels if unet.config.num_classes else None
    images = to_model_range(held.stack())
    rows: dict[str, Callable[[], Any]] = {"float": lambda: unet}
    for bits in WEIGHT_BITS:
        rows[f"deployed, {bits} bits"] = lambda bits=bits: to_integer(unet, bits).compiled()
    for run in args.fine_tuned:
        rows[f"deployed, {run.name}"] = lambda run=run: fine_tuned(run)
    rows["blocks, none"] = lambda: rounded(unet, [])
    for block, narrow in convolutions(unet).items():
        rows[f"blocks, {block}"] = lambda narrow=narrow: rounded(unet, narrow)
    losses = json.loads(args.output.read_text())["loss"] if args.output.exists() else {}
    for name, make in rows.items():
        if name not in losses:
            losses[name] = held_out_loss(make(), noise, images, labels)
            more = {key: round(loss / losses["float"] - 1, 5) for key, loss in losses.items()}
            report = {"run": args.run.name, "loss": losses, "more": more}
            args.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
            print(f"{name}: {more[name]:+.2%}", flush=True)


if __name__ == "__main__":
    main()
