"""Which device a command computes on; what cannot work on Apple's is refused in one line."""

from types import SimpleNamespace

import pytest
import torch

from small_pipelines import make
from spikediff.cli import main
from spikediff.errors import UserError
from spikediff.hub.load import choose_device, float64_part, load_pipeline
from spikediff.pretrained import pretrained_folder


def there(monkeypatch, *kinds):
    """Let torch see devices of these kinds."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in kinds)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in kinds)


@pytest.mark.parametrize(
    ("kinds", "chosen"),
    [((), "cpu"), (("mps",), "mps"), (("cuda",), "cuda"), (("cuda", "mps"), "cuda")],
)
def test_auto_takes_cuda_then_mps_then_the_cpu(kinds, chosen, monkeypatch):
    there(monkeypatch, *kinds)
    assert choose_device("auto") == chosen
    assert choose_device(torch.device("cpu")) == "cpu"
    for kind in ("cuda", "mps"):
        if kind in kinds:
            assert choose_device(kind) == kind
            assert choose_device(f"{kind}:1") == f"{kind}:1"
        else:
            with pytest.raises(UserError, match=f"--device {kind}: torch sees no"):
                choose_device(kind)


def test_what_needs_float64_stays_off_mps(monkeypatch):
    there(monkeypatch, "mps")
    assert choose_device("auto", "the meter") == "cpu"
    with pytest.raises(UserError, match="--device mps: has no float64, as needed by the meter"):
        choose_device("mps", "the meter")
    tokens = SimpleNamespace(components={"vqvae": torch.nn.Identity()})
    assert float64_part(tokens) == "the draws of tokens"
    assert float64_part(make("denoiser")) is None
    whole = load_pipeline(pretrained_folder("mnist"), device="auto")  # not on a device without it
    assert whole.unet.device.type == "cpu"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["energy", "digits"], "as needed by the meter"),
        (["sample", "mnist", "--output", "{out}"], "the exact sums of an integer network"),
        (["sample", "digits", "--event-driven", "--output", "{out}"], "runs only on the CPU"),
    ],
)
def test_what_cannot_work_is_one_line(arguments, words, monkeypatch, tmp_path, capsys):
    there(monkeypatch, "mps")
    arguments = [part.format(out=tmp_path / "out") for part in arguments]
    assert main([*arguments, "--device", "mps"]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_no_mps_here_is_one_line(monkeypatch, tmp_path, capsys):
    there(monkeypatch)
    assert main(["sample", "digits", "--device", "mps", "--output", str(tmp_path / "o")]) == 2
    assert "torch sees no MPS device here; use cpu" in capsys.readouterr().err
