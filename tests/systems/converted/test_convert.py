"""Laws of conversion: what vanishes with the spiking steps, what does not, and what costs what."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from norms import see
from spikediff.diffusion.classes import class_names, name_classes
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.energy import EnergyMeter, audit
from spikediff.errors import UserError
from spikediff.systems.converted.convert import convert, quantise
from spikediff.systems.converted.layer_errors import probe, relative_error
from spikediff.systems.converted.layers import (
    ConvertedIF,
    QuantisedReLU,
    QuantisedSynapse,
    SharedGroupNorm,
    SpikingSynapse,
)
from spikediff.systems.converted.network import ConvertedUNet
from spikediff.systems.sddpm.network import SpikingUNet

ONE_LEVEL = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
MODES = [(s, n) for s in ("signed", "unsigned") for n in ("shared", "per_step")]


def error_of(unet, noised, bits, spikes="signed", norm="shared"):
    """Return the relative error of the estimate at T = 2^bits - 1."""
    quantised = quantise(unet, bits, noised, calibration_images=8)
    converted = convert(quantised, spikes=spikes, norm=norm)
    return probe(converted, quantised, *noised.draw(2))[-1].error


def toy_error(steps, signed, shared):
    """Return the error of GN - Q - conv - GN - Q - conv, the smallest net with a second norm."""
    torch.manual_seed(0)
    norms = [nn.GroupNorm(4, 16), nn.GroupNorm(4, 16)]
    convs = [nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)]
    x, clip, bits = torch.randn(2, 16, 8, 8), 2.5, (steps + 1).bit_length() - 1
    reference, window = x, x.repeat(steps, 1, 1, 1)
    for norm, conv in zip(norms, convs, strict=True):
        reference = QuantisedSynapse(QuantisedReLU(bits, clip), conv, nn.Identity())(
            norm(reference)
        )
        norm = SharedGroupNorm(norm, steps) if shared else norm
        window = SpikingSynapse(ConvertedIF(signed, clip), conv, steps)(norm(window))
    return relative_error(window.unflatten(0, (steps, -1)).mean(0), reference)


@torch.no_grad()
def test_the_toy_of_the_reference():
    few, many = 3, 255
    assert toy_error(few, signed=True, shared=True) < 0.2
    assert toy_error(many, signed=True, shared=True) < 0.004
    assert toy_error(many, signed=False, shared=True) < 0.02
    # Norms at every step: a floor that steps do not lower, with or without signed spikes.
    for signed in (True, False):
        assert toy_error(many, signed, shared=False) > 0.3


@pytest.mark.slow
def test_shared_statistics_and_signed_spikes_converge(flat, noised):
    errors = [error_of(flat, noised, bits) for bits in (2, 4, 6)]
    assert all(after < 0.6 * before for before, after in pairwise(errors))
    assert errors[-1] < 0.1
    assert error_of(flat, noised, 6, norm="per_step") > 3 * errors[-1]


@torch.no_grad()
def test_classes_are_those_of_the_network(make_unet, noised):
    """One step of one level loses nothing, of any class; None is no class, the last embedding."""
    unet = make_unet(num_class_embeds=4, block_out_channels=(8,), **ONE_LEVEL)
    name_classes(unet, ["cat", "dog", "eel"])
    quantised = quantise(unet, 1, noised, calibration_images=2)
    converted, drawn = convert(quantised), noised.draw(2)
    assert class_names(converted) == ("cat", "dog", "eel")
    for labels in (None, torch.tensor([0, 2]), torch.tensor([1])):
        want = quantised.unet(*drawn, torch.tensor([3]) if labels is None else labels).sample
        assert torch.equal(quantised(*drawn, labels).sample, want)
        assert relative_error(converted(*drawn, labels).sample, want) < 1e-5
    sample = drawn[0]
    for wrong, word in (((5, [0, 1, 2]), "class_labels: 3 for 2"), (([1, 2, 3],), "timestep: 3")):
        with pytest.raises(UserError, match=word):
            converted(sample, *wrong)


def test_images_that_cannot_be_halved_are_refused(quantised_once):
    for network in (quantised_once, convert(quantised_once)):
        with pytest.raises(UserError, match=r"UNet: image size .* is not divisible by 2"):
            network(torch.randn(1, 1, 9, 9), 5)


def test_layers_before_the_first_norm_behind_spikes_are_exact(quantised_once, noised):
    converted, drawn = convert(quantised_once), noised.draw(2)
    errors = {e.layer: e.error for e in probe(converted, quantised_once, *drawn)}
    for layer in ("time_embedding", "conv_in", "down_blocks.0.resnets.0.conv1"):
        assert errors[layer] < 1e-5
    assert errors["down_blocks.0.resnets.0.conv2"] > 1e-3  # its input varies over the window


def test_with_one_step_of_one_level_nothing_is_lost(flat, noised):
    # T = 1: the window is one current, whose spike is its rounding.
    assert error_of(flat, noised, bits=1) < 1e-5


@pytest.mark.parametrize(("spikes", "norm"), MODES)
def test_an_image_does_not_depend_on_its_batch(quantised_once, noised, spikes, norm):
    model = convert(quantised_once, spikes=spikes, norm=norm)
    sample, timestep = noised.draw(3)
    with torch.no_grad():
        together = model.double()(sample.double(), timestep).sample
        alone = model(sample[1:2].double(), timestep[1:2]).sample
        again = model(sample.double(), timestep).sample
    torch.testing.assert_close(together[1:2], alone, atol=1e-12, rtol=0)
    assert torch.equal(together, again)  # no state is left over


def test_scalar_timesteps(quantised_once, noised):
    model = convert(quantised_once)
    sample, _ = noised.draw(2)
    one = model(sample, 7).sample
    assert torch.equal(one, model(sample, torch.tensor(7)).sample)
    assert torch.equal(one, model(sample, torch.tensor([7, 7])).sample)
    assert not torch.equal(one, model(sample, torch.tensor([7, 900])).sample)


@pytest.mark.parametrize("make", [quantise, convert])
def test_saved_and_loaded(make, flat, noised, tmp_path):
    model = make(flat, bits=3)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    sample, timestep = noised.draw(2)
    assert torch.equal(model(sample, timestep).sample, loaded(sample, timestep).sample)
    assert loaded.config.sample_size == 8
    assert not any(p.is_meta for p in loaded.parameters())


def test_as_part_of_a_pipeline(quantised_once, tmp_path):
    pipe = SpikingDiffusionPipeline(convert(quantised_once), make_scheduler("ddim"))
    pipe.save_pretrained(tmp_path)
    loaded = SpikingDiffusionPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    images = loaded(seeds=[0, 1], num_inference_steps=2, output_type="np").images
    assert images.shape == (2, 8, 8, 1)
    assert isinstance(loaded.unet, ConvertedUNet)


def test_the_source_stays_as_it_is(flat, noised):
    before = {key: tensor.clone() for key, tensor in flat.state_dict().items()}
    model = convert(flat, noised=noised)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert all(torch.equal(before[key], tensor) for key, tensor in flat.state_dict().items())


def test_without_rounding_or_clipping_a_relu_network_stays_what_it_is(make_unet, noised):
    relu = make_unet(act_fn="relu")
    relu.conv_act = relu.time_embedding.act = nn.ReLU()  # Swish, whatever diffusers is told
    quantised = quantise(relu, bits=None, clip=1e3)
    sample, timestep = noised.draw(4)
    with torch.no_grad():
        expected = relu(sample, timestep).sample
        torch.testing.assert_close(quantised(sample, timestep).sample, expected, rtol=0, atol=1e-4)
    with pytest.raises(UserError, match="give spiking_steps"):
        convert(quantised)


def test_every_place_of_an_activation_has_its_own_clip(unet):
    quantised = quantise(unet, 2)
    clips = [m for m in quantised.modules() if isinstance(m, QuantisedReLU)]
    blocks = 2 + 2 + 4  # down, middle, up
    assert len(clips) == 3 * blocks + 2  # and the timestep embedding, and the end
    assert len({id(m.clip) for m in clips}) == len(clips)


def test_attention_is_refused_or_kept_in_real_numbers(make_unet, noised):
    attention = {"add_attention": True, "attention_head_dim": 4}
    unet = make_unet(**ONE_LEVEL, block_out_channels=(8,), **attention)
    with pytest.raises(UserError, match=r"mid_block.attentions.0.*attention='real'"):
        convert(unet)
    quantised = quantise(unet, 5, noised, calibration_images=8, attention="real")
    converted = convert(quantised)
    assert probe(converted, quantised, *noised.draw(2))[-1].error < 0.1
    findings = audited(converted, noised)
    assert findings["unet.mid_block.attentions.0.attention.to_q"] == {"real-valued input"}


def audited(model, noised):
    sample, _ = noised.draw(2)
    with EnergyMeter(model) as meter, torch.no_grad():
        model(sample, 500)
    found = {}
    for finding in audit(meter.report("strict")).findings:
        found.setdefault(finding.layer, set()).add(finding.reason)
    return found


def test_the_energy_meter_sees_spikes_where_there_are_some(quantised_once, noised):
    model = convert(quantised_once)
    sample, _ = noised.draw(2)
    with EnergyMeter(model) as meter, torch.no_grad():
        model(sample, 500)
    report = meter.report("strict")
    assert report.spiking_steps == 3
    assert sum(cell.operation == "neuron" for cell in report.layers) == 26
    synapses = {c.layer: c for c in report.layers if c.calls and not c.operation.startswith("sc")}
    for layer, cell in synapses.items():
        spiking = layer.endswith(".layer")
        assert (cell.macs == 0 and cell.acs > 0) == spiking, layer
    thresholds = [c.layer for c in report.layers if c.layer.endswith("activation") and c.macs]
    assert not thresholds  # thresholds and amplitudes cost nothing: the weights absorb them


def test_the_audit_names_every_norm_and_the_real_valued_layers(unet, quantised_once, noised):
    found = audited(convert(quantised_once), noised)
    norms = {f"unet.{n}" for n, m in unet.named_modules() if isinstance(m, nn.GroupNorm)}
    assert norms <= set(found)
    per_step = audited(convert(quantised_once, norm="per_step"), noised)
    assert all("a norm that cannot be folded" in per_step[norm] for norm in norms)
    assert "real-valued input" in found["unet.conv_in"]
    assert "real-valued input" in found["unet.down_blocks.0.downsamplers.0.conv"]


def test_batch_norm_is_folded_where_a_convolution_is_before_it(make_unet, noised):
    unet = make_unet(**ONE_LEVEL, block_out_channels=(8,))
    for module in list(unet.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.BatchNorm2d(child.num_channels))
    see(unet, *noised.draw(64))
    quantised = quantise(unet, 6, noised, calibration_images=8)
    drawn, answers = noised.draw(2), []
    for norm in ("shared", "per_step"):
        converted = convert(quantised, norm=norm)
        assert probe(converted, quantised, *drawn)[-1].error < 0.1
        answers.append(converted(*drawn).sample)
    assert torch.equal(*answers)  # there are no statistics to share, hence no floor
    left = [n for n, m in converted.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(name.endswith("norm2") for name in left)
    assert len(left) == 5 + 1  # before the first activation of a block there is a sum


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"downsample_type": "resnet"}, "resamples inside a residual block"),
        ({"down_block_types": ("SkipDownBlock2D", "DownBlock2D")}, "no spiking counterpart|inside"),
    ],
)
def test_blocks_of_other_kinds_are_refused(make_unet, changes, said):
    if "downsample_type" in changes:
        changes |= {"down_block_types": ("AttnDownBlock2D",) * 2, "attention_head_dim": 4}
    with pytest.raises(UserError, match=said):
        convert(make_unet(**changes), attention="real")


def test_wrong_use_is_told_in_a_line(unet):
    cases = [
        (lambda: convert(SpikingUNet(8, 1, base_channels=8, channel_mult=(1,))), "UNet2DModel"),
        (lambda: convert(unet, spiking_steps=0), "at least 1"),
        (lambda: convert(unet, spikes="sgned"), "did you mean 'signed'"),
        (lambda: convert(unet, norm="batch"), "choose from shared, per_step"),
        (lambda: convert(unet, attention="spiking"), "choose from"),
        (lambda: convert(unet)(torch.zeros(1, 3, 8, 8), 0), "in_channels=1"),
        (lambda: quantise(nn.Linear(1, 1)), "UNet2DModel"),
    ]
    for call, said in cases:
        with pytest.raises(UserError, match=said) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [quantise, convert])
def test_all_of_it_learns_in_the_ordinary_way(make, flat, noised):
    model = make(flat, bits=2, noised=noised).train()
    model(*noised.draw(8)).sample.square().mean().backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
