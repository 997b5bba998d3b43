"""FSVAE and VAE in the common loop."""

from dataclasses import replace

import pytest
import torch

from spikediff.cli import main
from spikediff.diffusion.autoencoder_pipeline import VAEPipeline
from spikediff.systems.fsvae.loss import AutoencoderObjective
from spikediff.training import recipe_from
from spikediff.training.build import Parts, build_model, build_objective
from spikediff.training.checkpoint import load_latest
from spikediff.training.computation import cpu_has_bf16
from spikediff.training.curve import read_curve
from spikediff.training.recipe import save_recipe
from spikediff.training.trained import load_trained
from spikediff.training.trainer import Trainer

MODELS = {
    "fsvae": {"neuron": "lif", "spiking_steps": 3, "group_size": 3},
    "vae": {},
}


@pytest.fixture(scope="module", params=MODELS)
def recipe(request, small):
    model = {"network": request.param, "widths": [4, 8], "latent_channels": 6}
    content = {"model": model | MODELS[request.param], "loss": {"name": "autoencoder"}}
    built = recipe_from(content, "here")
    return replace(small, model=built.model, loss=built.loss)


def test_trains_resumes_samples_and_reconstructs(recipe, with_steps, tmp_path, capsys):
    Trainer(with_steps(recipe, 2), tmp_path / "whole", show_progress=False).train()
    Trainer(with_steps(recipe, 1), tmp_path / "parts", show_progress=False).train()
    assert isinstance(load_trained(tmp_path / "parts"), VAEPipeline)
    Trainer(with_steps(recipe, 2), tmp_path / "parts", resume=True, show_progress=False).train()
    one, two = (load_latest(tmp_path / run / "checkpoints") for run in ("whole", "parts"))
    for name, tensor in one.tensors["model"].items():
        assert torch.equal(tensor, two.tensors["model"][name]), name
    point = read_curve(tmp_path / "whole" / "loss.csv")[-1]
    terms = {name: point.terms[name] for name in ("reconstruction", "divergence")}
    assert sum(terms.values()) == pytest.approx(point.loss)
    assert "unweighted_divergence" in point.terms

    run = str(tmp_path / "whole")
    out = ["--output", str(tmp_path / "out")]
    assert main(["sample", run, "--num-images", "3", *out]) == 0
    assert not (tmp_path / "out" / "denoising.gif").exists(), "there is nothing to watch"
    pairs = ["--output", str(tmp_path / "pairs")]
    assert main(["reconstruct", run, "--num-images", "4", *pairs]) == 0
    assert main(["energy", run, "--num-images", "2"]) == 0
    capsys.readouterr()


@pytest.mark.usefixtures("fresh_accelerator")
@pytest.mark.skipif(not cpu_has_bf16(), reason="this CPU has no bf16")
def test_trains_in_mixed_precision(recipe, with_steps, tmp_path):
    recipe = with_steps(recipe, 2)
    mixed = replace(recipe, training=replace(recipe.training, mixed_precision="bf16"))
    assert Trainer(mixed, tmp_path / "run", show_progress=False).train()
    assert read_curve(tmp_path / "run" / "loss.csv")[-1].loss > 0


def test_the_draws_do_not_depend_on_the_parts(recipe):
    """An image has a seed of its own, so cutting a batch changes no draw of it."""
    objective = build_objective(Parts(recipe, 8, 1))
    assert isinstance(objective, AutoencoderObjective)
    drawn = objective.draw((4, 1, 8, 8), 0.5, torch.Generator().manual_seed(0))
    seeds, *probability = drawn
    assert len(seeds.unique()) == 4
    expected = [0.2] * 4 if recipe.model.network == "fsvae" else []
    assert [p for part in probability for p in part.tolist()] == pytest.approx(expected)
    model = build_model(Parts(recipe, 8, 1)).eval()
    x = torch.rand(4, 1, 8, 8) * 2 - 1
    whole = objective(model, x, *drawn).terms["reconstruction"]
    halves = [
        objective(model, x[part], *(d[part] for d in drawn)).terms["reconstruction"]
        for part in (slice(0, 2), slice(2, 4))
    ]
    assert torch.stack(halves).mean().item() == pytest.approx(whole.item(), rel=1e-5)


def test_on_the_command_line(recipe, tmp_path, capsys):
    save_recipe(recipe, tmp_path / "r.yaml")
    train = ["train", str(tmp_path / "r.yaml"), "--output", str(tmp_path / "run")]
    assert main([*train, "--training.steps", "2", "--loss.name", "denoising"]) == 2
    assert "no loss of" in capsys.readouterr().err
