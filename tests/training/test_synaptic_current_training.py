"""FSDDIM in the common loop: terms in the curve, exact resume, the right pipeline, the sampler."""

import json
from dataclasses import replace

import pytest
import torch

from spikediff.cli import main
from spikediff.errors import UserError
from spikediff.systems.fsddim.pipeline import SynapticCurrentPipeline
from spikediff.training.checkpoint import load_latest
from spikediff.training.curve import read_curve
from spikediff.training.trained import load_trained
from spikediff.training.trainer import Trainer


@pytest.fixture(scope="module")
def synaptic(small, of_network):
    recipe = of_network(small, "synaptic_current_unet", "synaptic_current", spiking_steps=2)
    sampling = replace(small.sampling, scheduler="synaptic-ddim")
    diffusion = replace(
        small.diffusion, prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2"
    )
    return replace(recipe, sampling=sampling, diffusion=diffusion)


def test_trains_resumes_and_samples(synaptic, with_steps, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    synaptic = with_steps(synaptic, 2, log_every=1)
    assert Trainer(synaptic, whole, show_progress=False).train()
    assert Trainer(with_steps(synaptic, 1), parts, show_progress=False).train()
    assert isinstance(load_trained(parts), SynapticCurrentPipeline)
    assert Trainer(synaptic, parts, resume=True, show_progress=False).train()
    one, two = (load_latest(run / "checkpoints") for run in (whole, parts))
    for group, tensors in one.tensors.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, two.tensors[group][name]), f"{group}/{name}"
    for run in (whole, parts):
        points = read_curve(run / "loss.csv")
        assert [point.step for point in points] == [1, 2]
        for point in points:
            assert list(point.terms) == ["image_level", "consistency"]
            assert sum(point.terms.values()) == pytest.approx(point.loss)


def test_an_unfinished_run_is_sampled_in_currents(synaptic, with_steps, tmp_path):
    Trainer(with_steps(synaptic, 1), tmp_path, show_progress=False).train()
    (tmp_path / "pipeline" / "model_index.json").unlink()
    pipe = load_trained(tmp_path)
    assert isinstance(pipe, SynapticCurrentPipeline)
    assert pipe.unet.config.spiking_steps == 2


def test_a_sampler_that_does_not_fit_is_told_before_training(synaptic, tmp_path):
    recipe = replace(synaptic, sampling=replace(synaptic.sampling, scheduler="ddpm"))
    with pytest.raises(UserError, match="synaptic currents"):
        Trainer(recipe, tmp_path / "run", show_progress=False)


def test_another_loss_does_not_resume(synaptic, with_steps, tmp_path):
    Trainer(with_steps(synaptic, 1), tmp_path, show_progress=False).train()
    other = replace(synaptic, loss=replace(synaptic.loss, consistency=0.0))
    with pytest.raises(UserError, match=r"loss\.consistency is 1\.0 there and 0\.0"):
        Trainer(with_steps(other, 2), tmp_path, resume=True, show_progress=False)


def test_on_the_command_line(tmp_path, capsys):
    run, small = tmp_path / "run", ["--model.base-channels", "8", "--training.steps", "10"]
    small += ["--data.batch-size", "16", "--sampling.num-images", "2"]
    small += ["--model.channel-mult", "1", "--model.layers-per-block", "1"]
    small += ["--model.spiking-steps", "2"]
    train = ["train", "fsddim/digits", "--output", str(run), "--sampling.every", "0", *small]
    assert main([*train, "--sampling.num-inference-steps", "2", "--training.log-every", "2"]) == 0
    first, *_, last = read_curve(run / "loss.csv")
    assert last.terms["image_level"] < 0.9 * first.terms["image_level"]

    sample = ["sample", str(run), "--num-images", "3", "--num-inference-steps", "4"]
    files = ["--output", str(tmp_path / "out"), "--json", str(tmp_path / "told.json")]
    assert main([*sample, "--batch-size", "2", *files]) == 0
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["scheduler"] == "SynapticCurrentDDIMScheduler"
    assert len(told["current_variance"]) == 5
    assert told["current_variance"][0] == 0
    assert "variance of the synaptic currents" in capsys.readouterr().out
    assert main([*sample, *files, "--overwrite", "--scheduler", "dpmsolver++"]) == 0
    assert main([*sample, *files, "--overwrite", "--scheduler", "ddim"]) == 2
    assert "synaptic currents" in capsys.readouterr().err
