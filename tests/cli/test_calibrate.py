"""`spikediff calibrate` and the sampler that needs it."""

import json
import shutil

import pytest
import torch

from sizes import ONE_LEVEL
from small_pipelines import made
from spikediff.cli import main
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.pretrained import pretrained_folder
from spikediff.systems.sddpm.network import SpikingUNet


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("saved")
    SpikingDiffusionPipeline(
        SpikingUNet(**ONE_LEVEL).eval(), make_scheduler("ddim")
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def model(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def calibrate(model, *arguments):
    quick = ["--num-images", "4", "--num-timesteps", "3", "--dataset", "digits"]
    return main(["calibrate", str(model), *quick, *arguments])


def sample(model, tmp_path):
    arguments = ["--scheduler", "analytic-dpm", "--num-images", "1", "--num-inference-steps", "2"]
    return main(["sample", str(model), *arguments, "--output", str(tmp_path / "out")])


def test_measured_once_and_used(model, tmp_path):
    assert calibrate(model, "--json", str(tmp_path / "h.json")) == 0
    told = json.loads((tmp_path / "h.json").read_text())
    kept = json.loads((model / "calibration.json").read_text())
    assert told["second_moment"] == kept["settings"]["second_moment"]
    assert len(told["second_moment"]) == len(told["second_moment_timesteps"]) == 3
    assert told["clip_last_noise"] == 2.0  # the schedule is linear
    assert sample(model, tmp_path) == 0
    assert (tmp_path / "out" / "grid.png").is_file()


def test_the_same_twice(model):
    calibrate(model)
    first = (model / "calibration.json").read_bytes()
    calibrate(model)
    assert (model / "calibration.json").read_bytes() == first


def test_without_a_calibration_the_message_says_what_to_do(model, tmp_path, capsys):
    run = tmp_path / "run"
    model.rename(run.mkdir() or run / "pipeline")
    assert sample(run, tmp_path) == 2
    assert f"run `spikediff calibrate {run}`" in capsys.readouterr().err


def test_other_weights_need_another_calibration(model, tmp_path, capsys):
    calibrate(model)
    pipe = SpikingDiffusionPipeline.from_pretrained(model)
    with torch.no_grad():
        next(pipe.unet.parameters()).add_(1)
    pipe.save_pretrained(model)
    assert sample(model, tmp_path) == 2
    assert "was measured on other weights" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{}", '{"settings": 3, "weights_sha256": ""}'])
def test_a_damaged_calibration_is_told(model, tmp_path, text, capsys):
    (model / "calibration.json").write_text(text)
    assert sample(model, tmp_path) == 2
    assert "is damaged" in capsys.readouterr().err


def test_wrong_use(model, tmp_path, capsys):
    assert main(["calibrate", str(model)]) == 2
    assert "does not name a data set" in capsys.readouterr().err
    assert main(["calibrate", "runs/typo"]) == 2
    assert "runs/typo: no such folder here; for one on the Hub, give --d" in capsys.readouterr().err
    assert calibrate(model, "--num-images", "0") == 2
    assert "must be at least 1" in capsys.readouterr().err
    assert calibrate(tmp_path) == 2
    assert "contains neither a pipeline" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["run", "currents"])
def test_what_cannot_be_used_is_told_before_the_work(name, saved, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("spikediff.diffusion.calibration.estimate_second_moment", None)
    if name == "run":  # as an unfinished run loads, without a pipeline
        monkeypatch.setattr("spikediff.training.trained.load_trained", lambda _: made("denoiser"))
    else:
        made("currents").save_pretrained(tmp_path)
    assert calibrate(tmp_path) == 2
    said = "has no pipeline to calibrate" if name == "run" else "AnalyticDPMScheduler"
    assert said in capsys.readouterr().err


def test_a_model_of_the_hub_is_calibrated_in_the_cache(model, tmp_path, monkeypatch):
    monkeypatch.setenv("SPIKEDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(model.parent))
    monkeypatch.setattr(SpikingDiffusionPipeline, "download", lambda _name: str(model))
    assert calibrate("me/model") == 0
    assert not (model / "calibration.json").exists()
    assert sample("me/model", tmp_path) == 0


def test_a_model_of_the_package_is_never_written_to(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SPIKEDIFF_CACHE", str(tmp_path / "cache"))
    package = pretrained_folder("digits")
    before = {path: path.stat().st_mtime_ns for path in package.rglob("*")}
    assert main(["calibrate", "digits", "--num-images", "2", "--num-timesteps", "3"]) == 0
    assert str(tmp_path / "cache") in capsys.readouterr().out
    sample = ["sample", "digits", "--scheduler", "analytic-dpm", "--num-images", "1"]
    options = ["--num-inference-steps", "2", "--no-gif"]
    assert main([*sample, *options, "--output", str(tmp_path / "out")]) == 0
    for output in (package, package / "samples"):
        assert main([*sample, *options, "--output", str(output), "--overwrite"]) == 2
        assert "belongs to the installed package" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in package.rglob("*")} == before
