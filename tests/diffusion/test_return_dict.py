"""What a type checker makes of a call: an output, or a tuple with `return_dict=False`."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from spikediff.diffusion import return_dict

ROOT = Path(__file__).parents[2]
PIPELINE = """
from return_dict import Answering, answering

class Output:
    images: list[int]

class Pipe:
    @answering
    def __call__(self, size: int = 1, return_dict: bool = True) -> Output | tuple[list[int]]:
        raise NotImplementedError

class Network:
    __call__: Answering[..., Output]

pipe = Pipe()
reveal_type(pipe(2).images)
reveal_type(pipe(2, return_dict=False))
reveal_type(Network()(2).images)
"""
SAMPLE = """
import torch
unet = sd.SpikingUNet(8, 1, base_channels=8, channel_mult=(1, 2), layers_per_block=1)
unet(torch.zeros(1, 1, 8, 8), 5).sample.clamp(-1, 1)
own = sd.SpikingDiffusionPipeline(unet, sd.make_scheduler("ddim"))
own(batch_size=2).images[0].save("one.png")
own(batch_size=2, return_dict=False)[0]
"""


def mypy(file, *options):
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--no-error-summary", *options, str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.replace("builtins.", "").splitlines()


def test_the_type_of_a_call(tmp_path):
    shutil.copy(return_dict.__file__, tmp_path / "return_dict.py")
    file = tmp_path / "pipeline.py"
    file.write_text(PIPELINE + "pipe(sizes=2)\n")
    options = ["--strict", "--config-file", "", "--cache-dir", str(tmp_path / "cache")]
    *found, error, _, _, _ = (line.partition(": ")[2] for line in mypy(file, *options))
    assert found == [
        'note: Revealed type is "list[int]"',
        'note: Revealed type is "tuple[Any, ...]"',
        'note: Revealed type is "list[int]"',
    ]
    assert "No overload variant" in error


@pytest.mark.slow
def test_the_lines_of_the_readme_pass(tmp_path):
    (lines,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    file = tmp_path / "lines.py"
    file.write_text(lines + SAMPLE)
    assert mypy(file) == []
