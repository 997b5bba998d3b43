"""Starting from the weights of an earlier run: SDM's second stage."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
import yaml
from PIL import Image

from spikediff.errors import UserError
from spikediff.layers.temporal_scaling import scaling_factors
from spikediff.training import load_recipe, save_recipe
from spikediff.training.build import Parts, build_model
from spikediff.training.checkpoint import load_latest, save_checkpoint
from spikediff.training.curve import plot_temporal_scaling
from spikediff.training.trained import load_trained, start_from
from spikediff.training.trainer import Trainer


@pytest.fixture(scope="module")
def first_stage(four):
    """A plain run; not to be changed."""
    return four


@pytest.fixture
def second(small, first_stage, with_steps):
    """The recipe of a run that starts from it, of two steps."""
    model = replace(small.model, temporal_scaling=True)
    recipe = replace(small, model=model, init_from=str(first_stage), seed=5)
    return with_steps(recipe, 2, checkpoint_every=1)


@pytest.fixture(scope="module")
def scaled_run(small, first_stage, with_steps, tmp_path_factory):
    """A run of the second stage; not to be changed."""
    folder = tmp_path_factory.mktemp("second") / "sdm"
    model = replace(small.model, temporal_scaling=True)
    recipe = with_steps(replace(small, model=model, init_from=str(first_stage)), 2)
    assert Trainer(recipe, folder, show_progress=False).train()
    return folder


def average_of(folder):
    return load_latest(folder / "checkpoints").tensors["average"]


def test_it_starts_as_the_averaged_network_bit_for_bit(second, first_stage, tmp_path):
    trainer = Trainer(second, tmp_path / "sdm", show_progress=False)
    given = average_of(first_stage)
    for held in (trainer.model, trainer.average.module):
        weights = held.state_dict()
        for name, tensor in given.items():
            assert torch.equal(weights[name], tensor), name
        assert all((p == 1).all() for p in scaling_factors(held).values())
    sample = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        got = trainer.model.eval()(sample, 7).sample
        assert torch.equal(got, load_trained(first_stage).unet(sample, 7).sample)


@pytest.mark.parametrize("kind", ["pipeline", "finished run", "unfinished run"])
def test_what_it_may_start_from(kind, second, first_stage, tmp_path):
    source = first_stage / "pipeline" if kind == "pipeline" else first_stage
    if kind == "unfinished run":
        source = shutil.copytree(first_stage, tmp_path / "run")
        shutil.rmtree(source / "pipeline")
    model = build_model(Parts(second, 8, 1))
    before = model.stem.encode.conv.weight.clone()
    start_from(source, model, second)
    want = load_trained(source).unet.stem.encode.conv.weight
    assert torch.equal(model.stem.encode.conv.weight, want)
    assert not torch.equal(before, want)


def test_fine_tuning_moves_weights_and_factors_and_draws_them(scaled_run, first_stage):
    factors = scaling_factors(load_trained(scaled_run).unet)
    assert len(factors) == 15
    assert all((p != 1).any() for p in factors.values())
    assert not torch.equal(
        average_of(scaled_run)["head.conv.weight"], average_of(first_stage)["head.conv.weight"]
    )
    with Image.open(scaled_run / "temporal_scaling.png") as picture:
        assert min(picture.size) > 100
    assert load_recipe(scaled_run / "recipe.yaml").init_from == str(first_stage)


def test_a_fine_tuned_run_is_fine_tuned_further(second, scaled_run):
    """Factors that are there are copied, not reset to 1."""
    model = build_model(Parts(second, 8, 1))
    start_from(scaled_run, model, second)
    held = scaling_factors(model)
    for name, p in scaling_factors(load_trained(scaled_run).unet).items():
        assert torch.equal(held[name], p)


def test_resuming_needs_neither_the_option_nor_the_first_run(
    second, with_steps, first_stage, tmp_path, monkeypatch
):
    monkeypatch.setattr("spikediff.training.trainer.plot_temporal_scaling", lambda *_: None)
    moved = shutil.copytree(first_stage, tmp_path / "sddpm")
    told = replace(second, init_from=str(moved))
    assert Trainer(told, tmp_path / "whole", show_progress=False).train()
    assert Trainer(with_steps(told, 1), tmp_path / "parts", show_progress=False).train()
    shutil.rmtree(moved)
    untold = replace(second, init_from=None)
    assert Trainer(untold, tmp_path / "parts", resume=True, show_progress=False).train()
    whole, parts = average_of(tmp_path / "whole"), average_of(tmp_path / "parts")
    for name, tensor in whole.items():
        assert torch.equal(tensor, parts[name]), name
    assert load_recipe(tmp_path / "parts" / "recipe.yaml").init_from == str(moved)


def test_a_run_killed_before_its_first_checkpoint_starts_from_there_again(
    second, first_stage, tmp_path
):
    Trainer(second, tmp_path / "sdm", show_progress=False)
    untold = replace(second, init_from=None)
    trainer = Trainer(untold, tmp_path / "sdm", resume=True, show_progress=False)
    want = load_trained(first_stage).unet.state_dict()
    assert torch.equal(trainer.model.state_dict()["head.conv.bias"], want["head.conv.bias"])
    assert torch.equal(trainer.model.state_dict()["head.conv.weight"], want["head.conv.weight"])


def test_resuming_takes_no_other_start(small, first_stage):
    other = replace(small, init_from="elsewhere")
    with pytest.raises(
        UserError, match="started from random weights; --resume does not take another"
    ):
        Trainer(other, first_stage, resume=True, show_progress=False)


@pytest.mark.parametrize(
    ("part", "changes", "words"),
    [
        (
            "model",
            {"base_channels": 16, "neuron": "lif"},
            ["base_channels is 8 there and 16 in the recipe", "neuron is if there and lif"],
        ),
        ("model", {"channel_mult": (1, 2, 2)}, ["channel_mult is"]),
        ("model", {"spiking_steps": 3}, ["spiking_steps is 2 there and 3 in the recipe"]),
        ("diffusion", {"prediction_type": "sample"}, ["another diffusion: prediction_type is"]),
    ],
)
def test_another_network_is_refused_and_what_differs_is_named(
    part, changes, words, second, tmp_path
):
    recipe = replace(second, **{part: replace(getattr(second, part), **changes)})
    with pytest.raises(UserError) as caught:
        Trainer(recipe, tmp_path / "sdm", show_progress=False)
    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / "sdm").exists()


def test_a_network_of_another_class_is_refused(second, of_network, tmp_path):
    with pytest.raises(UserError, match="holds SpikingUNet, the recipe makes"):
        Trainer(of_network(second, "ddpm_unet"), tmp_path / "ddpm", show_progress=False)


def test_a_plain_network_may_go_on_with_other_spiking_steps(small, first_stage, tmp_path):
    longer = replace(small, init_from=str(first_stage), model=replace(small.model, spiking_steps=6))
    trainer = Trainer(longer, tmp_path / "longer", show_progress=False)
    ours, theirs = trainer.model.state_dict(), load_trained(first_stage).unet.state_dict()
    assert trainer.model.config.spiking_steps == 6
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())


@pytest.mark.parametrize(
    ("network", "scheduler"), [("ddpm_unet", "ddim"), ("synaptic_current_unet", "synaptic-ddim")]
)
def test_other_networks_start_from_their_own_runs(
    network, scheduler, small, of_network, with_steps, tmp_path
):
    sampling = replace(small.sampling, scheduler=scheduler)
    first = with_steps(replace(of_network(small, network), sampling=sampling), 1)
    assert Trainer(first, tmp_path / "first", show_progress=False).train()
    second = replace(first, init_from=str(tmp_path / "first"))
    if network == "synaptic_current_unet":  # T has no weights there either
        second = replace(second, model=replace(first.model, spiking_steps=6))
    ours = Trainer(second, tmp_path / "second", show_progress=False).model.state_dict()
    theirs = load_trained(tmp_path / "first").unet.state_dict()
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())


def test_a_network_may_learn_its_places_later_but_not_forget_them(
    small, with_steps, first_stage, tmp_path
):
    placed = replace(small.model, position_embedding=True)
    recipe = replace(with_steps(small, 2), init_from=str(first_stage), model=placed)
    trainer = Trainer(recipe, tmp_path / "placed", show_progress=False)
    assert not trainer.model.stem.position_embedding.any()
    trainer.train()
    assert trainer.model.stem.position_embedding.any()
    back = replace(small, init_from=str(tmp_path / "placed"))
    with pytest.raises(UserError, match="position_embedding is True there and False"):
        Trainer(back, tmp_path / "plain", show_progress=False)


def test_a_scaled_network_is_not_cut_down_to_a_plain_one(small, scaled_run, tmp_path):
    plain = replace(small, init_from=str(scaled_run))
    with pytest.raises(UserError, match="temporal_scaling is True there and False"):
        Trainer(plain, tmp_path / "plain", show_progress=False)


def test_dropout_may_differ(second, tmp_path):
    recipe = replace(second, model=replace(second.model, dropout=0.2))
    Trainer(recipe, tmp_path / "sdm", show_progress=False)


def test_the_picture_shows_every_layer_and_the_mean(tmp_path):
    factors = {"a": torch.tensor([0.5, 1.0]), "b": torch.tensor([1.5, 2.0])}
    plot_temporal_scaling(factors, tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ([1], r"model_index\.json: is damaged, it holds \[1\]"),
        ({"scheduler": ["diffusers", "DDIMScheduler"]}, "cannot load the pipeline"),
    ],
)
def test_a_damaged_pipeline_is_one_line(index, words, tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=words) as caught:
        load_trained(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_run_without_a_checkpoint_is_told(small, tmp_path):
    save_recipe(small, tmp_path / "recipe.yaml")
    with pytest.raises(UserError, match="the run has no checkpoint yet"):
        load_trained(tmp_path)


def test_a_run_whose_checkpoints_do_not_tell_the_channels_is_loaded(first_stage, tmp_path):
    """As version 0.1.0 wrote them: the data set knows its channels."""
    shutil.copy(first_stage / "recipe.yaml", tmp_path / "recipe.yaml")
    kept = load_latest(first_stage / "checkpoints")
    del kept.state["data"]
    save_checkpoint(tmp_path / "checkpoints", kept, 1)
    ours, theirs = (load_trained(folder).unet for folder in (tmp_path, first_stage))
    assert ours.config.in_channels == 1
    assert torch.equal(ours.head.conv.weight, theirs.head.conv.weight)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"num_train_timesteps": 2**31}, "num_train_timesteps = 2147483648 must be positive"),
        ({"beta_start": 1e308}, r"beta_start = 1e\+308 must lie between 0 and 1"),
    ],
)
def test_a_damaged_recipe_of_a_run_is_one_line(part, words, scaled_run, tmp_path):
    """Before a network or a schedule of such a size is built."""
    run = shutil.copytree(scaled_run, tmp_path / "run")
    shutil.rmtree(run / "pipeline")
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["diffusion"] |= part
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(UserError, match=rf"recipe\.yaml: diffusion\.{words}"):
        load_trained(run)
