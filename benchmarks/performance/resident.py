"""Peak memory of a process that does one step, as the kernel of the system counts it.

The most inclusive figure: it has what libraries take past torch's allocator, gradients and
fragments of the heap. A fresh process each, because a heap that has grown hides what comes after.
"""

import argparse
import ctypes
import gc
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from performance import systems
from performance.missing import Missing
from spikediff.hub.load import load_pipeline
from spikediff.systems.sddpm.network import SpikingUNet

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Network:
    """Which network a fresh process makes: of a run, or of random weights and a configuration."""

    run: Path | None
    config: dict[str, Any] = field(default_factory=dict)

    def make(self) -> nn.Module:
        """Return it."""
        return SpikingUNet(**self.config) if self.run is None else load_pipeline(self.run).unet


def in_fresh_process(system: str, network: Network, batch: int, training: bool) -> int:
    """Return the bytes that a step adds to the resident set of a fresh process, at its peak.

    Args:
        system: Key of `systems.build`.
        network: The network.
        batch: Images.
        training: Whether the step is a training step, not a forward pass.

    Raises:
        Missing: The process failed, or the system does not tell.
    """
    told = {
        "system": system,
        "run": None if network.run is None else str(network.run),
        "config": network.config,
        "batch": batch,
        "training": training,
    }
    command = [sys.executable, "-m", "performance.resident", json.dumps(told)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing((done.stderr.strip() or "the process failed").splitlines()[-1])
    return int(done.stdout.splitlines()[-1])


def memory_of(field_name: str) -> int:
    """Return a field of this process's status, in bytes: VmRSS, or its high-water mark VmHWM."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{field_name}:"):
            return 1024 * int(line.split()[1])
    raise Missing(f"the system tells no {field_name}")


def added_at_peak(run: Any) -> int:
    """Return the bytes that a call adds to the resident set at its peak.

    `getrusage` will not do: its high-water mark outlives exec, so a child has its parent's.
    """
    if not CLEAR.exists():
        raise Missing("resident memory is read from Linux's /proc")
    _give_back_free_memory()
    CLEAR.write_text("5")  # the high-water mark starts anew
    before = memory_of("VmRSS")
    run()
    return memory_of("VmHWM") - before


def _give_back_free_memory() -> None:
    """Return what the heap holds free to the system: a step would use it and add nothing."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        raise Missing("resident memory needs a C library with malloc_trim")
    trim(0)


def main() -> None:
    """Do one step as told, and print the bytes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("told", type=json.loads)
    told = parser.parse_args().told
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tiny = SpikingUNet(8, 1, base_channels=8, channel_mult=(1, 2), layers_per_block=1)
    _step(systems.build(told["system"], tiny, told["training"]), tiny, 1, told["training"])()
    model = Network(told["run"] and Path(told["run"]), told["config"]).make()
    system = systems.build(told["system"], model, told["training"])
    step = _step(system, model, told["batch"], told["training"])
    del model  # the system has its own copy
    print(added_at_peak(step))


def _step(system: systems.System, model: Any, batch: int, training: bool) -> Any:
    config = model.config
    sample = torch.randn(batch, config.in_channels, config.sample_size, config.sample_size)
    if training:
        return systems.training_step(system, sample, 500, torch.randn_like(sample))
    return systems.forward(system, sample, 500)


if __name__ == "__main__":
    main()
