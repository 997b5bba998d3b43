"""What is told before a training, and what a recipe does not die of."""

import logging
from dataclasses import replace

import pytest

from spikediff.cli import main
from spikediff.errors import UserError
from spikediff.pretrained import find_recipe
from spikediff.training.build import check_both_stages
from spikediff.training.computation import usable_precision
from spikediff.training.recipe import load_recipe
from spikediff.training.trainer import Trainer

SMALL = ["--training.steps", "1", "--sampling.num-images", "1", "--sampling.num-inference-steps"]


def test_too_many_steps_for_the_tokens_are_told_before_both_stages(tmp_path, capsys):
    recipe, root = "spiking-diffusion/digits", tmp_path / "run"
    assert main(["train", recipe, "--output", str(root), *SMALL, "17"]) == 2
    assert "must be at most 16, the tokens" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_shipped_stages_fit(monkeypatch):
    for name in ("spiking-diffusion/digits", "spiking-diffusion/digits-classes"):
        second = load_recipe(find_recipe(name))
        check_both_stages(load_recipe(find_recipe(second.first_stage)), second)


def test_more_steps_than_the_sampler_has(tmp_path):
    recipe = load_recipe(find_recipe("sddpm/digits"))
    sampling = replace(recipe.sampling, num_inference_steps=1001)
    with pytest.raises(UserError, match="must not exceed"):
        Trainer(replace(recipe, sampling=sampling), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_cpu_without_units_trains_in_float32(precision, monkeypatch, caplog):
    monkeypatch.setattr("spikediff.training.computation.cpu_has_bf16", lambda: False)
    with caplog.at_level(logging.WARNING):
        assert usable_precision(precision, "cpu") == "no"
    [record] = caplog.records
    assert "training in float32" in record.getMessage()
    assert usable_precision(precision, "cuda") == precision
    assert usable_precision("no", "cpu") == "no"


def test_a_recipe_in_bf16_runs_and_says_what_was_done(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("spikediff.training.computation.cpu_has_bf16", lambda: False)
    root = tmp_path / "run"
    call = ["train", "sddpm/digits", "--output", str(root), *SMALL, "1"]
    call += ["--model.base-channels", "4", "--model.channel-mult", "1", "2"]
    assert main([*call, "--training.mixed-precision", "bf16"]) == 0
    assert load_recipe(root / "recipe.yaml").training.mixed_precision == "no"
    said = capsys.readouterr().out
    assert "parameters, on 1,442 items of digits (1 x 8)" in said
