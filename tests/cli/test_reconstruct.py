"""`spikediff reconstruct` as a user types it."""

import json

import pytest
import torch

from norms import see
from small_pipelines import made
from spikediff.cli import main
from spikediff.cli.reconstruct import _measure
from spikediff.diffusion.autoencoder_pipeline import VAEPipeline
from spikediff.native import native
from spikediff.systems.spiking_diffusion.vq_svae import VQSVAE


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    """A pipeline's folder, of random weights whose reconstructions are not all alike."""
    torch.manual_seed(0)
    model = VQSVAE(sample_size=8, widths=(8,), codebook_size=16, spiking_steps=4)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.constant_(module.weight, 3.0)
    see(model, torch.rand(32, 1, 8, 8) - 0.5)
    folder = tmp_path_factory.mktemp("autoencoder")
    VAEPipeline(model).save_pretrained(folder)
    return folder


def reconstruct(source, folder, *flags):
    options = ["--dataset", "digits", "--num-images", "20", "--json", str(folder / "r.json")]
    assert main(["reconstruct", str(source), "--output", str(folder), *options, *flags]) == 0
    return json.loads((folder / "r.json").read_text())


def test_event_driven_reconstructions_are_as_good(autoencoder, tmp_path):
    plain = reconstruct(autoencoder, tmp_path)
    event_driven = reconstruct(autoencoder, tmp_path, "--event-driven", "--overwrite")
    assert event_driven.pop("event_driven") is True
    assert event_driven.keys() == plain.keys()
    assert plain["mse"] > 0
    for name in ("mse", "mse_of_range_2"):
        assert event_driven[name] == pytest.approx(plain[name], rel=1e-4)


@pytest.mark.skipif(native() is None, reason="the C kernels are not built")
def test_rounded_weights_are_told(autoencoder, tmp_path):
    weights = ["--event-driven", "--event-driven-weights", "int16"]
    rounded = reconstruct(autoencoder, tmp_path, *weights)
    assert rounded["event_driven_weights"] == "int16"
    plain = reconstruct(autoencoder, tmp_path, "--overwrite")
    assert rounded["mse"] == pytest.approx(plain["mse"], rel=0.1)


def test_event_driven_is_for_the_cpu(autoencoder, tmp_path, capsys):
    options = ["--dataset", "digits", "--event-driven", "--device", "cuda"]
    assert main(["reconstruct", str(autoencoder), "--output", str(tmp_path), *options]) == 2
    assert "only on the CPU" in capsys.readouterr().err


@pytest.mark.parametrize(("side", "measured"), [(10, 2), (11, 4)])
def test_equal_images_have_no_error_and_small_ones_no_similarity(side, measured):
    images = 2 * torch.rand(2, 1, side, side) - 1
    assert list(_measure(images, images).values()) == pytest.approx([0.0] * measured, abs=1e-6)
    assert min(_measure(images, -images).values()) > 0.1


@pytest.mark.parametrize("option", [("--scheduler", "ddim"), ("--execution", "delta")])
def test_options_of_a_denoiser_are_refused(autoencoder, option, capsys):
    assert main(["reconstruct", str(autoencoder), "--dataset", "digits", *option]) == 2
    assert f"{option[0]}: an autoencoder has no denoiser; omit it" in capsys.readouterr().err


def test_a_denoiser_has_no_autoencoder(tmp_path, capsys):
    made("denoiser").save_pretrained(tmp_path)
    assert main(["reconstruct", str(tmp_path), "--dataset", "digits"]) == 2
    assert "a SpikingDiffusionPipeline has no autoencoder" in capsys.readouterr().err
