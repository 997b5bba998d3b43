"""What every system promises, for all rows of `SYSTEMS`: a new one is tested at birth."""

import inspect
from collections.abc import Mapping, Sequence
from functools import partialmethod
from inspect import isfunction
from types import UnionType
from typing import Any, get_args, get_type_hints

import pytest
import torch
import torch._dynamo.config
from diffusers import UNet2DModel
from torch import nn

from spikediff import VQSVAE, EnergyMeter, IntegerSpikingUNet, UserError, compile_for_inference
from spikediff.diffusion.loop import image_shape
from spikediff.systems import SYSTEMS, find_trainable, load_system
from spikediff.training import recipe_from
from spikediff.training.build import (
    Parts,
    build_items,
    build_model,
    build_objective,
    build_pipeline,
)
from spikediff.training.computation import keeping_activations, prepare_computation
from spikediff.training.recipe import TrainingRecipe
from spikediff.training.trainer import Trainer

UNET = {"base_channels": 8, "channel_mult": [1, 2], "layers_per_block": 1}
FLAT = UNET | {"channel_mult": [1]}
SPIKING = {"spiking_steps": 2}
SMALL = {
    "spiking_unet": UNET | SPIKING,
    "spiking_unet_1d": UNET | SPIKING,
    "synaptic_current_unet": FLAT | SPIKING,
    "integer_unet": {"block_out_channels": [8, 16]},
    "ddpm_unet": FLAT,
    "vq_svae": {"widths": [8], "codebook_size": 12, "embedding_channels": 4, "spiking_steps": 3},
    "spiking_image_decoder": {"widths": [8, 8], "spiking_steps": 2},
    "fsvae": {"widths": [4, 8], "latent_channels": 6, "group_size": 3, "spiking_steps": 6},
    "vae": {"widths": [4, 8], "latent_channels": 6},
}
SAMPLERS = {"synaptic_current_unet": "synaptic-ddim"}  # DDIM cannot clip currents
LEARNING_STEPS = {"vq_svae": 4}  # until the loss is lower; two do for the others
SIGNALS = {"dataset": "membrane", "image_size": 16, "signal_range": [-60.0, 10.0]}
NETWORKS = [network for networks in SYSTEMS.values() for network in networks]


def recipe_of(network):
    """A recipe of a few steps, with the network's own first loss."""
    data = SIGNALS if find_trainable(network).items == "signals" else {"dataset": "digits"}
    return recipe_from(
        {
            "model": {"network": network, **SMALL[network]},
            "data": {**data, "batch_size": 8},
            "sampling": {
                "scheduler": SAMPLERS.get(network, "ddim"),
                "num_inference_steps": 2,
                "num_images": 2,
                "every": 0,
            },
            "training": {"steps": 1},
        },
        "test",
    )


@pytest.fixture(scope="module", params=NETWORKS)
def parts(request, tmp_path_factory):
    recipe, root = recipe_of(request.param), tmp_path_factory.mktemp("runs") / "run"
    if find_trainable(request.param).items == "tokens":
        first = Trainer(
            recipe_of("vq_svae"), root.with_name("run-first-stage"), False, False, False
        )
        assert first.train()
    items = build_items(recipe, root)
    return Parts(recipe, items.image_size, items.channels, root, items)


@pytest.fixture(scope="module")
def model(parts):
    return build_model(parts)


@pytest.fixture(scope="module")
def pipe(parts, model):
    return build_pipeline(model, parts)


def test_every_folder_of_a_system_says_what_it_is():
    assert SMALL.keys() == set(NETWORKS)
    for name, networks in SYSTEMS.items():
        system = load_system(name)
        assert tuple(system.networks) == networks
        assert system.networks or system.released


WRONG = {
    int: (-1, 1.5, True, "8", 10**9),
    float: (float("nan"), -1.0, float("inf")),
    str: ("none such", ["if"], 1),
    Sequence[int]: ("8", [], [0], [1.5]),
    Mapping[str, Any]: ("tau", {"none such": 1}),
}
"""Values that no argument of the type takes, whatever the network."""
SMALL_ARGUMENTS = {"sample_size": 16, "in_channels": 1}


@pytest.mark.parametrize("network", NETWORKS)
def test_the_constructor_refuses_values_out_of_range_by_name(network):
    trainable = find_trainable(network)
    make, keys = trainable.network, {key: name for name, key in trainable.keys.items()}
    arguments = inspect.signature(make).parameters
    small = {keys.get(key, key): value for key, value in SMALL[network].items()}
    small |= {name: value for name, value in SMALL_ARGUMENTS.items() if name in arguments}
    make(**small | trainable.fixed)
    hints = get_type_hints(make if isfunction(make) else inspect.unwrap(make.__init__))
    tried = [
        (name, value)
        for name, hint in hints.items()
        if name in arguments
        for kind in (get_args(hint) if isinstance(hint, UnionType) else [hint])
        for value in WRONG.get(kind, ())
    ]
    assert len(tried) > 15  # not an empty loop
    for name, value in tried:
        with pytest.raises(UserError, match=name):
            make(**small | trainable.fixed | {name: value})


def test_training_steps_lower_the_loss_on_their_batch(parts):
    network, objective = build_model(parts).train(), build_objective(parts)
    items = torch.stack([parts.dataset[i][0] for i in range(8)])
    batch = objective.prepare(items)
    drawn = objective.draw(items.shape, 0.0, torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)

    def loss():
        torch.manual_seed(0)
        return torch.stack(list(objective(network, batch, *drawn).terms.values())).sum()

    before = loss().item()
    for _ in range(LEARNING_STEPS.get(parts.recipe.model.network, 2)):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < before


def test_the_denoiser_refuses_timesteps_that_do_not_fit_the_batch(pipe):
    denoiser = pipe.components.get("unet")
    if denoiser is None or isinstance(denoiser, UNet2DModel):  # that of diffusers is not ours
        pytest.skip("no denoiser of ours")
    shape = image_shape(denoiser)
    for timestep in ([1, 2, 3], [], None, "1"):
        with pytest.raises(UserError, match="timestep"):
            denoiser(torch.zeros(2, *shape), timestep)
    for sample in (None, torch.zeros(2, 7, *shape[1:]).numpy()):
        with pytest.raises(UserError, match="expects"):
            denoiser(sample, 1)


def losses(parts, **options):
    """Losses of four steps under options of `training`."""
    network, objective = build_model(parts).train(), build_objective(parts)
    computed = TrainingRecipe(**options)
    prepare_computation(network, computed, torch.device("cpu"))
    items = torch.stack([parts.dataset[i][0] for i in range(8)])
    batch = objective.prepare(items)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    of_steps = []
    for step in range(4):
        torch.manual_seed(step)
        drawn = objective.draw(items.shape, step / 4, torch.Generator().manual_seed(step))
        with keeping_activations(computed):
            loss = torch.stack(list(objective(network, batch, *drawn).terms.values())).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        of_steps.append(loss.item())
    return of_steps


def test_how_its_training_is_computed_changes_no_loss(parts):
    want = losses(parts, compress_activations=False)
    assert losses(parts, gradient_checkpointing=True) == want
    assert losses(parts, event_driven=True) == pytest.approx(want, rel=1e-5)


@pytest.mark.slow
def test_compiled_for_training_it_has_the_same_losses(parts, monkeypatch):
    """Nor is it compiled again at every step, whose share of the run may enter the loss."""
    without_code = partialmethod(nn.Module.compile, backend="aot_eager")
    monkeypatch.setattr(nn.Module, "compile", without_code)
    torch.compiler.reset()
    with torch._dynamo.config.patch(recompile_limit=2, fail_on_recompile_limit_hit=True):
        compiled = losses(parts, compile=True)
    assert compiled == pytest.approx(losses(parts), rel=1e-4)


def images(pipe, seeds):
    """Images of seeds; of an autoencoder without a prior, reconstructions of noise."""
    if "scheduler" in pipe.components:
        return pipe(seeds=seeds, num_inference_steps=2, output_type="pt").images
    if isinstance(pipe.vae, VQSVAE):
        noise = [torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(s)) for s in seeds]
        return pipe.reconstruct(torch.stack(noise))
    return pipe(seeds=seeds, output_type="pt").images


def test_saved_and_loaded_it_makes_the_same_bits(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = type(pipe).from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert torch.equal(images(again, [3, 4]), images(pipe, [3, 4]))


WRONG_CALLS = {
    "batch_size": (0, -1, 1.5, "8", 10**12),
    "num_inference_steps": (0, -1, 1.5, "8"),
    "seeds": (3, torch.tensor(3), [], [-1], [2**64], ["8"], [0.5], range(1_000_001)),
    "generator": (0, [0], "8", [None]),
    "latents": (0, "8", torch.tensor(1.0), torch.zeros(1, 1)),
    "timesteps": (8, [None], ["a"], [], [3, 5]),
    "eta": (-0.5, 2.0, float("nan"), None, "1"),
    "callback_on_step_end": (1,),
    "callback_on_step_end_tensor_inputs": (1, [1]),
    "classifier_scale": (2.0,),
    "output_type": ("none such", 1),
    "class_labels": ("none such", [0.5]),
    "guidance_scale": (2.0, "8"),
    "temperature": (-1.0, float("nan")),
    "top_p": (-1.0, 0.0, 1.5),
}


def test_a_call_refuses_arguments_out_of_range(pipe):
    arguments = inspect.signature(type(pipe).__call__).parameters
    names = WRONG_CALLS.keys() & arguments
    tried = [(name, value) for name in names for value in WRONG_CALLS[name]]
    assert len(tried) > 15  # not an empty loop
    for name, value in tried:
        with pytest.raises(UserError):
            pipe(**{"output_type": "pt", name: value})


def test_an_image_depends_on_its_seed_alone(pipe):
    assert torch.equal(images(pipe, [3, 4, 5])[1:2], images(pipe, [4]))


def test_the_meter_counts_it_and_changes_nothing(pipe, parts):
    without = "scheduler" not in pipe.components and hasattr(pipe.vae, "generate")
    reports = []
    for seeds in ([3], [3, 4]):
        want = images(pipe, seeds)
        with EnergyMeter(pipe, images=len(seeds) if without else None) as meter:
            assert torch.allclose(images(pipe, seeds), want, atol=1e-4)
        reports.append(meter.report())
    report, of_two = reports
    assert (report.images, of_two.images) == (1, 2)
    # The embedding of a timestep is computed once, whatever the number of images is.
    one = report.energy_per_image_pj
    assert 0.4 * one <= of_two.energy_per_image_pj <= 1.1 * one
    read = {each.traffic().weights / each.images for each in reports}
    assert read == {report.traffic().weights}
    assert report.dense_macs > 0
    if without:
        with EnergyMeter(pipe) as meter:
            images(pipe, [3])
        with pytest.raises(UserError, match=r"give EnergyMeter\(images=\.\.\.\)"):
            meter.report()
    ordinary = parts.recipe.model.network in ("ddpm_unet", "vae")
    assert not (ordinary and report.acs)


def test_compiled_for_inference_it_makes_the_same_images(pipe, parts):
    name = find_trainable(parts.recipe.model.network).part
    plain = pipe.components[name]
    if isinstance(plain, IntegerSpikingUNet):
        with pytest.raises(UserError, match="to_integer"):
            compile_for_inference(plain)
        plain = plain.to_integer()
    compiled = compile_for_inference(plain)
    with torch.no_grad():
        sample = torch.stack([parts.dataset[i][0] for i in range(2)])
        if name == "vae":
            x = parts.to_model_range(sample)
            generators = [torch.Generator().manual_seed(i) for i in range(2)]
            one = plain(x, generators).sample
            generators = [torch.Generator().manual_seed(i) for i in range(2)]
            two = compiled(x, generators).sample
        else:
            x = sample[:, 0].long() if name == "decoder" else parts.to_model_range(sample)
            if parts.recipe.model.network == "synaptic_current_unet":
                x = x.expand(parts.recipe.model.spiking_steps, *x.shape)
            one, two = (network(x, torch.tensor(7)).sample for network in (plain, compiled))
    assert torch.allclose(one, two, atol=1e-3)
