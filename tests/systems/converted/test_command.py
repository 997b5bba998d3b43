"""`spikediff convert`, from a pipeline's folder to a pipeline that the other commands read."""

import json

import pytest

from small_pipelines import made
from spikediff.cli import main
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.systems.sddpm.network import SpikingUNet

QUICK = ["--quantise-steps", "1", "--batch-size", "2", "--num-images", "8", "--device", "cpu"]


@pytest.fixture(scope="module")
def source(flat, tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    SpikingDiffusionPipeline(flat, make_scheduler("dpmsolver++")).save_pretrained(folder)
    return folder


@pytest.mark.usefixtures("few_checks", "figures_are_empty")
def test_to_a_pipeline_that_samples(make_unet, tmp_path, capsys):
    """From a network of two classes, which the pipeline can be asked for."""
    one_level = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    unet = make_unet(block_out_channels=(8,), num_class_embeds=3, **one_level)
    source = tmp_path / "source"
    SpikingDiffusionPipeline(unet, make_scheduler("dpmsolver++")).save_pretrained(source)
    out, picture, told = tmp_path / "out", tmp_path / "probe.png", tmp_path / "told.json"
    arguments = ["--dataset", "digits", "--output", str(out), "--fine-tune-steps", "1"]
    arguments += ["--probe", str(picture), "--json", str(told)]
    assert main(["convert", str(source), *QUICK, *arguments]) == 0
    assert "T = 3" in capsys.readouterr().out
    assert picture.exists()
    facts = json.loads(told.read_text())
    assert facts["spiking_steps"] == 3
    assert facts["layer_errors"]["fine-tuned"][-1]["layer"] == "conv_out"
    assert len(facts["blocks"]) == 7
    samples = tmp_path / "samples"
    arguments = ["--output", str(samples), "--num-images", "2", "--num-inference-steps", "2"]
    assert main(["sample", str(out), *arguments, "--class-labels", "1", "0"]) == 0
    assert len(list(samples.glob("seed-*.png"))) == 2


@pytest.mark.slow
def test_the_whole_spiking_network_can_be_trained(source, tmp_path):
    out, told = tmp_path / "out", tmp_path / "told.json"
    arguments = ["--dataset", "digits", "--output", str(out), "--json", str(told)]
    assert main(["convert", str(source), *QUICK, *arguments, "--train-steps", "2"]) == 0
    assert json.loads(told.read_text())["layer_errors"].keys() == {"converted", "trained"}
    trained = SpikingDiffusionPipeline.from_pretrained(out).unet.state_dict()
    given = SpikingDiffusionPipeline.from_pretrained(out / "quantised").unet.state_dict()
    assert trained.keys() == given.keys()
    assert any((trained[key] != tensor).any() for key, tensor in given.items())


def test_a_quantised_network_need_not_be_trained_again(source, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    start = ["--dataset", "digits"]
    assert main(["convert", str(source), *QUICK, *start, "--output", str(first)]) == 0
    again = [str(first / "quantised"), *QUICK, *start, "--spiking-steps", "7"]
    assert main(["convert", *again, "--spikes", "unsigned", "--output", str(second)]) == 0
    loaded = SpikingDiffusionPipeline.from_pretrained(second)
    assert loaded.unet.config.spiking_steps == 7
    assert loaded.unet.config.spikes == "unsigned"
    kept = SpikingDiffusionPipeline.from_pretrained(second / "quantised").unet.state_dict()
    given = SpikingDiffusionPipeline.from_pretrained(first / "quantised").unet.state_dict()
    assert all((kept[key] == tensor).all() for key, tensor in given.items())
    assert main(["convert", *again, "--bits", "3", "--output", str(tmp_path / "third")]) == 2
    assert "--bits 3: " in (told := capsys.readouterr().err.splitlines()[-1])
    assert told.endswith("quantised has 2")


def test_what_cannot_work_is_told_in_a_line(source, tmp_path, capsys):
    spiking = tmp_path / "spiking"
    unet = SpikingUNet(8, 1, base_channels=8, channel_mult=(1,)).eval()
    SpikingDiffusionPipeline(unet, make_scheduler("ddim")).save_pretrained(spiking)
    made("tokens").save_pretrained(tokens := tmp_path / "tokens")
    new = ["--output", str(tmp_path / "new")]
    cases = [
        ([str(source), *new], "give --dataset"),
        ([str(source), *new, "--bits", "0"], "--bits 0 must be at least 2"),
        ([str(source), "--dataset", "digits", "--output", str(source)], "another --output"),
        ([str(source), *new, "--train-lr", "1e-3"], "--train-lr needs --train-steps"),
        ([str(source), *new, "--fine-tune-lr", "1e-3"], "--fine-tune-lr needs --fine-tune-steps"),
        ([str(source), *new, "--train-thresholds"], "--train-thresholds needs --fine-tune-steps"),
        ([str(spiking), *new, *QUICK, "--dataset", "absent"], "convert takes a UNet2DModel"),
        ([str(tokens), *new, *QUICK, "--dataset", "absent"], "has no denoiser"),
        ([str(source), *new, "--dataset", "digits", "--probe", "x.pdf"], "ends in none of .png"),
    ]
    for arguments, said in cases:
        assert main(["convert", *arguments]) == 2
        error = capsys.readouterr().err.strip()
        assert said in error
        assert "\n" not in error
    assert not (tmp_path / "new").exists()


def test_a_learning_rate_that_leaves_no_numbers(source, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--dataset", "digits", "--output", str(out), "--quantise-lr", "1e30"]
    assert main(["convert", str(source), *QUICK, *arguments, "--quantise-steps", "9"]) == 2
    assert "smaller learning rate" in capsys.readouterr().err.splitlines()[-1]
    assert not out.exists()
