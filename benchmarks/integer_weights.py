"""What fewer bits of weights cost an integer network, all together and block by block.

    PYTHONPATH=benchmarks python benchmarks/integer_weights.py RUN --data-dir DIR \
        --output benchmarks/integer_weights_mnist.json

Loss is that of `integer_table.py`, on the held-out tenth, relative to the float network's on the
same draws. "deployed" is the deployment form at 8, 6 and 4 bits. --fine-tuned RUNS are networks
trained with `model.weight_bits`, deployed at those bits. "blocks" is the float network with its
synapses rounded: to 8 bits, and to 4 in one block; "all" rounds the 1x1 shortcuts and the last
convolution as well.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from integer_table import held_out_loss

import spikediff as sd
from spikediff.data import load_images, to_model_range
from spikediff.hub.run_data import find_dataset
from spikediff.systems.integer import IntegerSpikingUNet, to_integer
from spikediff.systems.integer.network import CountConv2d
from spikediff.systems.integer.weights import WEIGHT_BITS

FEW, SMALL = 4, ("shortcut", "head")


def rounded_blocks(unet: IntegerSpikingUNet) -> dict[str, IntegerSpikingUNet]:
    """Return copies of a network with 8-bit weights, with 4 bits in the block of their name."""
    convolutions = [n for n, part in unet.named_modules() if isinstance(part, CountConv2d)]
    blocks = dict.fromkeys(name.split(".synapse")[0].split(".shortcut")[0] for name in convolutions)
    wanted = {"none": (), **{block: (block,) for block in blocks}}
    wanted["all but the small layers"] = wanted["all"] = tuple(blocks)
    copies = {}
    for label, chosen in wanted.items():
        copy = unet.from_config(unet.config, weight_bits=8)
        copy.load_state_dict(unet.state_dict())
        for name in convolutions:
            kept = any(part in name for part in SMALL) and label == "all but the small layers"
            if name.startswith(chosen or ("-",)) and not kept:
                copy.get_submodule(name).weight_bits = FEW
        copies[label] = copy.eval()
    return copies


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
    noise = sd.make_scheduler("ddpm", pipe.scheduler.config)
    dataset, data_dir = find_dataset(args.run, args.dataset, args.data_dir)
    held = load_images(dataset, "train", data_dir=data_dir, held_out=True)
    labels = held.labels if pipe.unet.config.num_classes else None
    images = to_model_range(held.stack())

    def loss(unet: Any) -> float:
        return held_out_loss(unet, noise, images, labels)

    float_loss = loss(pipe.unet)

    def cost(unet: Any) -> float:
        """Return by how much the loss is above the float network's, relative."""
        more = round(loss(unet) / float_loss - 1, 5)
        print(f"{more:+.2%}", flush=True)
        return more

    report: dict[str, Any] = {"float": float_loss}
    report["deployed"] = {
        str(bits): cost(to_integer(pipe.unet, bits).compiled()) for bits in WEIGHT_BITS
    }
    report["fine_tuned"] = {}
    for run in args.fine_tuned:
        unet = sd.load(run).unet
        bits = unet.config.weight_bits
        report["fine_tuned"][run.name] = cost(to_integer(unet, bits).compiled())
    report["blocks"] = {name: cost(unet) for name, unet in rounded_blocks(pipe.unet).items()}
    args.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
