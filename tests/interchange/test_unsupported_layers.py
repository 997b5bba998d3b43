"""What NIR cannot express is refused at once, layer by layer."""

import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from contracts_small import classes_of

from spikediff.cli import main
from spikediff.cli.convert import ConvertOptions
from spikediff.errors import UserError
from spikediff.events import compile_for_inference
from spikediff.interchange.nir.export import to_nir
from spikediff.interchange.nir.unsupported_layers import UNSUPPORTED, unsupported_layers
from spikediff.interchange.programs import (
    ANY_BATCH_SIZE,
    ONE_BATCH_SIZE,
    TORCH_ONLY,
    export_program,
)
from spikediff.systems.fsddim.network import SynapticCurrentUNet
from spikediff.systems.fsvae.network import FSVAE
from spikediff.systems.integer import IntegerSpikingUNet, to_integer
from spikediff.systems.sddpm.network import SpikingUNet
from spikediff.systems.spiking_diffusion.decoder import SpikingImageDecoder
from spikediff.systems.spiking_diffusion.vq_svae import VQSVAE

TINY = {"sample_size": 8, "in_channels": 1, "base_channels": 8}
PLAIN = {**TINY, "channel_mult": (1,), "layers_per_block": 1, "readout": "mean"}


def exportable(**options):
    return SpikingUNet(**{**PLAIN, "spiking_head": True, "neuron": "lif", **options}).eval()


def unsupported(model):
    return {(layer.name, layer.kind) for layer in unsupported_layers(model)}


def test_all_offenders_of_the_published_network_stand_in_one_message():
    model = SpikingUNet(**TINY, channel_mult=(1, 2, 2), temporal_scaling=True).eval()
    with torch.no_grad():
        model.stem.encode.scaling.p[1] = 2.0
    want = {
        ("stem.encode.scaling", "TemporalScaling"),
        ("up_blocks.3", "Upsample"),
        ("up_blocks.7", "Upsample"),
        ("head", "Head"),
        ("readout", "decayed_sum"),
    }
    assert unsupported(model) == want
    with pytest.raises(UserError) as refusal:
        to_nir(model, 10)
    message = str(refusal.value)
    assert "\n" not in message
    assert "cannot express 5 of its layers" in message
    for name, kind in want:
        assert f"{name} ({kind}): " in message
    for remedy in ("channel_mult: [1]", "spiking_head: true", "readout: mean"):
        assert remedy in message


@pytest.mark.parametrize("widths", [(4,), (4, 6)])
def test_the_integer_network_says_what_nir_has_no_word_for(widths):
    unet = IntegerSpikingUNet(8, 1, block_out_channels=widths).eval()
    kinds = {kind for _, kind in unsupported(unet)}
    assert kinds == {"IntegerNeuron"} | ({"Doubling"} if len(widths) > 1 else set())
    of_form = {kind for _, kind in unsupported(to_integer(unet))}
    assert of_form - kinds - {"FixedPointNeuron", "StepTables"} == {
        "FixedPointStem",
        "IntegerSynapse",
    }
    with pytest.raises(UserError, match=r"last_neuron|and \d+ more \(IntegerNeuron\)") as refusal:
        to_nir(unet, 10)
    assert str(refusal.value).count("waits for its whole window") == 1


@pytest.mark.parametrize("block", ["plain", "pre_spike"])
@pytest.mark.parametrize("neuron", ["if", "lif", "plif"])
def test_the_friendly_network_has_none(block, neuron):
    assert not unsupported(exportable(block=block, neuron=neuron, temporal_scaling=True))
    assert not unsupported(SpikingImageDecoder(codebook_size=8, widths=(8,), spiking_steps=2))


def test_a_current_of_every_place_is_refused():
    model = exportable(position_embedding=True)
    assert unsupported(model) == {("stem.position_embedding", "Parameter")}
    with pytest.raises(UserError, match="train without position_embedding"):
        to_nir(model, 10)


@pytest.mark.parametrize(
    ("neuron", "options", "reason"),
    [
        ("lif", {"v_reset": None}, "hard reset only"),
        ("lif", {"v_init": 0.5}, "no first membrane"),
        ("signed_if", {}, "negative spikes"),
        ("lif", {"decay": 1.0, "decay_input": True}, "never reaches the membrane"),
    ],
)
def test_neurons_that_nir_does_not_have(neuron, options, reason):
    model = exportable(neuron=neuron, neuron_options=options)
    layers = [name for name, module in model.named_modules() if hasattr(module, "dynamics")]
    found = unsupported_layers(model)
    assert [layer.name for layer in found] == layers
    assert all(reason in layer.reason for layer in found)


def test_the_remedy_for_negative_spikes_is_an_option_of_the_command():
    (layer, *_) = unsupported_layers(exportable(neuron="signed_if"))
    choices = get_args(get_type_hints(ConvertOptions)["spikes"])
    assert re.search(r"--spikes (\w+)", layer.remedy)[1] in choices


def test_every_name_is_that_of_a_layer():
    classes = set(classes_of(torch.nn.Module))
    assert UNSUPPORTED.keys() <= classes | set(dir(torch.nn))
    assert classes | {"UNet2DModel"} >= ANY_BATCH_SIZE | ONE_BATCH_SIZE | TORCH_ONLY


def test_other_systems_are_refused_by_their_layers():
    fsddim = unsupported(SynapticCurrentUNet(**TINY, channel_mult=(1, 2), layers_per_block=1))
    assert ("time_embedding", "SpikingTimestepEmbedding") in fsddim
    assert ("up_levels.0.resampling", "SynapticResampling") in fsddim
    assert ("down_levels.0.resampling", "SynapticResampling") not in fsddim  # NIR has the average
    vq = unsupported(VQSVAE(sample_size=8, widths=(8,), codebook_size=8, spiking_steps=2))
    assert ("quantiser", "VectorQuantiser") in vq
    assert ("decoder.last", "ConvTranspose2d") in vq
    fsvae = {
        kind for _, kind in unsupported(FSVAE(sample_size=8, channels=(8, 8), latent_channels=4))
    }
    assert {"ConvTranspose2d", "BernoulliLatent"} <= fsvae


def test_other_formats_are_named_where_they_can():
    with pytest.raises(UserError, match=r"\(--format onnx and torch can, with --batch-size 1\): "):
        to_nir(SynapticCurrentUNet(**TINY, channel_mult=(1, 2), layers_per_block=1).eval(), 1)
    form = to_integer(IntegerSpikingUNet(8, 1, block_out_channels=(4,)).eval())
    with pytest.raises(UserError, match=r"\(--format torch can, with --batch-size 1\): "):
        to_nir(form, 1)
    with pytest.raises(UserError) as refusal:
        to_nir(VQSVAE(sample_size=8, widths=(8,), codebook_size=8, spiking_steps=2).eval(), 1)
    assert "onnx" not in str(refusal.value)


@pytest.mark.parametrize("export", [export_program, lambda model: to_nir(model, 1)])
def test_networks_compiled_for_inference_are_refused(export):
    form = to_integer(IntegerSpikingUNet(8, 1, block_out_channels=(4,)).eval())
    for model in (exportable(), form):
        with pytest.raises(UserError, match=r"compiled for inference; export the original model$"):
            export(compile_for_inference(model))


def test_signals_are_refused_in_one_line():
    model = exportable(dimensions=1)
    (layer,) = unsupported_layers(model)
    number = sum(isinstance(module, torch.nn.Conv1d) for module in model.modules())
    assert (layer.name, layer.kind) == ("stem.encode.conv", "Conv1d")
    assert f"convolutions of signals, {number}: NIR has Conv1d, this export does not yet" in str(
        layer
    )
    with pytest.raises(UserError, match="convolutions of signals"):
        to_nir(model, 1)


def test_unknown_layers_are_no_silent_guess():
    model = exportable()
    model.head.neuron = torch.nn.Tanh()
    assert unsupported(model) == {("head.neuron", "Tanh")}
    model = exportable(block="plain")
    model.head.conv = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8)
    assert unsupported(model) == {("head.conv", "Conv2d")}


def test_a_network_of_which_every_layer_is_known_but_not_the_whole():
    class Chain(torch.nn.Sequential):
        pass

    assert unsupported(Chain(torch.nn.Conv2d(1, 1, 3))) == {("the network", "Chain")}


def test_what_is_missing_is_told(monkeypatch):
    model = exportable()
    with pytest.raises(UserError, match="give the timestep"):
        to_nir(model)
    with pytest.raises(UserError, match="eval"):
        to_nir(model.train(), 1)
    with pytest.raises(UserError, match="give sample_size"):
        to_nir(SpikingImageDecoder(codebook_size=8, widths=(8,), spiking_steps=2).eval())
    for size, told in (
        (0, "sample_size"),
        ((8,), "2 numbers"),
        (9, "patch_size=2"),
        (8.0, "whole"),
    ):
        with pytest.raises(UserError, match=told):
            to_nir(exportable(patch_size=2), 1, sample_size=size)
    monkeypatch.setitem(__import__("sys").modules, "nir", None)
    with pytest.raises(UserError, match="pip install 'nir>="):
        to_nir(model.eval(), 1)


def test_the_command_prints_a_table_for_the_shipped_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "mnist"]) == 2
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 24, "a screen"
    assert re.match(r"layers +what NIR cannot express +what to do$", lines[0])
    for kind in ("FixedPointStem", "FixedPointNeuron", "IntegerSynapse", "Doubling", "StepTables"):
        assert sum(line.startswith(f"{kind}, ") for line in lines) == 1, kind
    assert said.out in (Path(__file__).parents[2] / "docs/export.md").read_text()
    (error,) = (line for line in said.err.splitlines() if "error" in line)
    way_out = r"\(--format torch can, with --batch-size 1\); docs/export.md shows networks"
    assert re.search(rf"NIR cannot express \d+ of its layers {way_out}", error)
    assert list(tmp_path.iterdir()) == []
