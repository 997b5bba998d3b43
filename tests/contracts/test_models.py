"""What diffusers expects of a model, of every network class of the package.

The list is that of diffusers' documentation and of its common tests: saving and loading, its
outputs, its types, checkpointing, offloading, compiling and exporting.
"""

import copy
import inspect
import json
from functools import cache

import accelerate
import pytest
import torch
from contracts_small import NETWORKS, classes_of, first, inputs, network
from diffusers.models.modeling_utils import ModelMixin

import spikediff
from spikediff.diffusion.model import SpikingModel
from spikediff.diffusion.saving import component

TRAINED = sorted(set(NETWORKS) - {"DeployedIntegerUNet"})


def test_every_class_is_here():
    # The base of all; and one that is made of another network, and neither saved nor trained.
    others = {"SpikingModel", "CompiledIntegerUNet"}
    assert set(classes_of(ModelMixin)) - others == set(NETWORKS)
    assert set(NETWORKS) <= set(classes_of(SpikingModel))


def test_a_pipeline_may_be_saved_with_every_class():
    assert all(component(name) is not None for name in NETWORKS)


def written(model):
    """The configuration as a file has it."""
    config = json.loads(model.to_json_string())
    return {key: value for key, value in config.items() if not key.startswith("_")}


@torch.no_grad()
def answer(model, name, count=2, **options):
    return first(model(**inputs(name, count), **options))


shared = cache(network)  # for tests that call it and change nothing


@cache
def expected_of(name):
    """What every network of a class answers, by the first law below."""
    return answer(shared(name), name)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_twice_and_as_a_tuple(name):
    model = shared(name)
    assert expected_of(name).isfinite().all()
    assert torch.equal(answer(model, name), expected_of(name))
    assert torch.equal(answer(model, name, return_dict=False), expected_of(name))


@pytest.mark.parametrize("name", NETWORKS)
def test_saved_and_loaded(name, tmp_path):
    model = shared(name)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert not loaded.training
    assert torch.equal(answer(loaded.eval(), name), expected_of(name))
    assert written(loaded) == written(model)


@pytest.mark.parametrize("name", NETWORKS)
def test_made_again_of_its_configuration(name):
    model = shared(name)
    again = type(model).from_config(model.config)
    again.load_state_dict(model.state_dict())
    assert torch.equal(answer(again.eval(), name), expected_of(name))


@pytest.mark.parametrize("name", NETWORKS)
def test_its_arguments_have_names(name):
    parameters = inspect.signature(type(shared(name)).forward).parameters
    assert "return_dict" in parameters
    assert next(iter(inputs(name))) in parameters


@pytest.mark.parametrize("name", TRAINED)
def test_gradients_reach_every_weight(name):
    model = network(name).train()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    output = model(**inputs(name))
    loss = output.loss if "loss" in output else first(output).square().mean()
    loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("name", TRAINED)
def test_statistics_stand_still_without_gradients(name):
    model = network(name).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    answer(model, name)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize(
    "name", [n for n in TRAINED if getattr(spikediff, n)._supports_gradient_checkpointing]
)
def test_gradient_checkpointing_changes_nothing(name):
    plain, again = network(name).train(), network(name).train()
    for model in (plain, again):
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
    assert not again.is_gradient_checkpointing
    again.enable_gradient_checkpointing()
    assert again.is_gradient_checkpointing
    again = copy.deepcopy(again)
    losses = []
    for model in (plain, again):
        torch.manual_seed(0)
        loss = first(model(**inputs(name))).square().mean()
        loss.backward()
        losses.append(loss)
    assert torch.equal(*losses)
    for (key, one), other in zip(plain.named_parameters(), again.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), key
        assert one.grad is None or torch.equal(one.grad, other.grad), key
    for key, value in plain.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), f"{key}: seen once"
    again.disable_gradient_checkpointing()
    assert not again.is_gradient_checkpointing


def test_the_u_nets_support_checkpointing():
    for name in ("SpikingUNet", "SynapticCurrentUNet", "IntegerSpikingUNet"):
        assert getattr(spikediff, name)._supports_gradient_checkpointing


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", TRAINED)
def test_half_precision(name, dtype):
    model = network(name).to(dtype)
    given = {
        key: value.to(dtype) if torch.is_tensor(value) and value.is_floating_point() else value
        for key, value in inputs(name).items()
    }
    with torch.no_grad():
        out = first(model(**given))
    assert out.dtype == dtype
    assert out.isfinite().all()


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_that_are_elsewhere_until_a_layer_runs(name):
    """As diffusers' sequential offload puts them."""
    model = network(name)
    accelerate.cpu_offload(model, "cpu", offload_buffers=True)
    assert any(p.device.type == "meta" for p in (*model.parameters(), *model.buffers()))
    torch.testing.assert_close(answer(model, name, return_dict=False), expected_of(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_compiles_whole(name):
    model = network(name).requires_grad_(False)
    given = {key: v for key, v in inputs(name).items() if key != "generator"}
    if hasattr(model, "draw"):
        given["draws"] = model.draw(2, torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = first(model(**given))
        torch._dynamo.reset()
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        torch.testing.assert_close(first(compiled(**given)), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TRAINED if name != "ConvertedUNet"])
def test_exports(name):
    """Signed converted neurons have thresholds that depend on weights, which a graph has not."""
    model = network(name).requires_grad_(False)
    given = {key: v for key, v in inputs(name).items() if key != "generator"}
    if hasattr(model, "draw"):
        given["draws"] = model.draw(2, torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = first(model(**given))
        program = torch.export.export(model, (), given)
        torch.testing.assert_close(first(program.module()(**given)), expected)
