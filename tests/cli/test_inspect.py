"""`spikediff inspect` as a user types it."""

import json

import pytest
import torch

from sizes import ONE_LEVEL
from spikediff.cli import main
from spikediff.cli.inspect import title_of
from spikediff.diffusion.autoencoder_pipeline import VAEPipeline
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.systems.ddpm.network import ddpm_unet
from spikediff.systems.fsvae.network import FSVAE
from spikediff.systems.sddpm.network import SpikingUNet


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    unet = SpikingUNet(**ONE_LEVEL)
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    pipe = SpikingDiffusionPipeline(unet.eval(), make_scheduler("ddim"))
    pipe.save_pretrained(folder / "pipeline")
    return folder


QUICK = ["--num-images", "2", "--num-inference-steps", "2", "--layers", "stem,middle*.0.neuron1"]


def inspect(model, output, *options):
    return main(["inspect", str(model), *QUICK, "--output", str(output), *options])


@pytest.mark.usefixtures("figures_are_empty")  # tests/inspection draws them
def test_pictures_page_and_figures(model, tmp_path, capsys):
    figures = tmp_path / "spikes.json"
    options = ["--json", str(figures), "--scheduler", "ddpm", "--neurons-per-layer", "5"]
    assert inspect(model, tmp_path / "new", *options, "--threshold", "0.9") == 0
    told = capsys.readouterr().out
    for words in ("saturated", "all neurons fire at", "index.html: the page"):
        assert words in told
    found = json.loads(figures.read_text())
    assert found["scheduler"] == "DDPMScheduler"
    assert found["threshold guidance"] == "0.9"
    assert found["timesteps"] == [999, 499]
    assert 0 < found["rate"] < 1
    page = (tmp_path / "new" / "index.html").read_text(encoding="utf-8")
    assert "<h1>Spikes of tiny</h1>" in page
    for layer in found["layers"]:
        assert layer["name"] in ("stem.neuron", "middle_blocks.0.neuron1")
        assert layer["name"] in page
        assert layer["observed"] == 2 * 2 * 4  # images, denoising steps, T
        assert len(layer["rates"]) == 2
        assert layer["rate"] == pytest.approx(sum(layer["rates"]) / 2)
    names = {p.name for p in (tmp_path / "new" / "layers").iterdir()}
    assert len(names) == len(found["layers"])


@pytest.mark.usefixtures("figures_are_empty")
def test_an_autoencoder_has_one_step(tmp_path):
    torch.manual_seed(0)
    fsvae = FSVAE(8, 1, channels=(4, 8), latent_channels=6, group_size=3, spiking_steps=4)
    VAEPipeline(fsvae.eval()).save_pretrained(tmp_path / "vae")
    options = ["--layers", "prior.layers.0", "--json", str(tmp_path / "new.json")]
    assert inspect(tmp_path / "vae", tmp_path / "new", *options) == 0
    found = json.loads((tmp_path / "new.json").read_text())
    assert found["timesteps"] == [None]
    assert "scheduler" not in found
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "dead_and_saturated.png",  # and no maps: the prior has no places
        "firing_rates.png",
        "images.png",
        "index.html",
        "layers",
    }


def test_an_ordinary_network_is_refused(tmp_path, capsys):
    unet = ddpm_unet(**ONE_LEVEL)
    pipe = SpikingDiffusionPipeline(unet.eval(), make_scheduler("ddim"))
    pipe.save_pretrained(tmp_path / "ann")
    assert inspect(tmp_path / "ann", tmp_path / "out") == 2
    told = capsys.readouterr().err.splitlines()
    assert "UNet2DModel: has no spiking neurons; there is nothing to record" in told[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-images", "0"], "must be at least 1"),
        (["--neurons-per-layer", "0"], "must be at least 1"),
        (["--layers", "stem,nobody"], "no layer of neurons is named"),
        (["--scheduler", "dimm"], "did you mean 'ddim'"),
        (["--output", __file__], "is not a folder"),
    ],
)
def test_wrong_use_is_one_line(model, tmp_path, arguments, message, capsys):
    assert inspect(model, tmp_path / "out", *arguments) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert message in told


def test_a_run_is_named_after_its_folder(tmp_path):
    (tmp_path / "mine" / "pipeline").mkdir(parents=True)
    assert title_of(tmp_path / "mine") == title_of(tmp_path / "mine" / "pipeline") == "mine"
