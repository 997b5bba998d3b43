"""Learning to live with levels and spikes: what improves, what stays, what is drawn."""

from copy import deepcopy

import pytest
import torch

from spikediff.errors import UserError
from spikediff.systems.converted.convert import convert, quantise
from spikediff.systems.converted.layer_errors import block_names, plot_conversion_errors, probe
from spikediff.systems.converted.training import NoisedImages, distil, fine_tune

BLOCKS = [
    "time_embedding",
    "conv_in",
    "down_blocks.0.resnets.0",
    "down_blocks.0.downsamplers.0",
    "down_blocks.1.resnets.0",
    "mid_block.resnets.0",
    "mid_block.resnets.1",
    "up_blocks.0.resnets.0",
    "up_blocks.0.resnets.1",
    "up_blocks.0.upsamplers.0",
    "up_blocks.1.resnets.0",
    "up_blocks.1.resnets.1",
]


def again(noised, seed):
    return NoisedImages(noised.images, noised.alphas_cumprod, seed)


@pytest.fixture
def quantised(quantised_once):
    return deepcopy(quantised_once)


@pytest.fixture
def flat_quantised(flat_quantised_once):
    return deepcopy(flat_quantised_once)


def test_blocks_in_the_order_of_running(quantised, noised):
    assert block_names(quantised, *noised.draw(1)) == BLOCKS
    assert block_names(convert(quantised), *noised.draw(1)) == BLOCKS


def test_timesteps_of_the_whole_clock_and_noised_images(noised):
    x_t, timestep = noised.draw(4000)
    counts = torch.histc(timestep.float(), bins=10, min=0, max=1000)
    assert (counts - 400).abs().max() < 80  # uniform: four standard deviations
    noisy = x_t[timestep > 900]
    assert noisy.std().item() == pytest.approx(1.0, abs=0.05)
    clean = x_t[timestep < 10]
    assert clean.abs().max() < 1.5


def test_x_t_is_what_the_schedule_says():
    # One image, one timestep: x_t = sqrt(a) x_0 + sqrt(1 - a) eps.
    noised = NoisedImages(torch.full((1, 1, 40, 40), 0.5), torch.tensor([0.36]))
    x_t, _ = noised.draw(4)
    assert x_t.mean().item() == pytest.approx(0.6 * 0.5, abs=0.03)
    assert x_t.std().item() == pytest.approx(0.8, abs=0.03)


@pytest.mark.slow
def test_distillation_brings_the_answers_together(flat, flat_quantised, noised):
    losses = distil(flat_quantised, flat, noised, 24, batch_size=16, lr=3e-3)
    assert sum(losses[-6:]) < 0.8 * sum(losses[:6])
    assert not flat_quantised.training


def test_a_distillation_that_stops_leaves_evaluation_mode(flat, flat_quantised, noised):
    with pytest.raises(UserError, match="smaller learning rate"):
        distil(flat_quantised, flat, noised, 9, batch_size=2, lr=1e30)
    assert not flat_quantised.training


@pytest.mark.slow
def test_a_spiking_network_learns_through_its_neurons(flat, flat_quantised, noised):
    spiking = convert(flat_quantised)
    losses = distil(spiking, flat, noised, 15, batch_size=8, lr=5e-3)
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


@pytest.mark.slow
def test_fine_tuning_mends_what_norms_at_every_step_break(quantised, noised):
    converted = convert(quantised, spikes="unsigned", norm="per_step")
    seen = again(noised, 7).draw(32)
    before = {e.layer: e.error for e in probe(converted, quantised, *seen)}
    losses = fine_tune(converted, quantised, noised, 5, batch_size=8, lr=2e-3)
    after = {e.layer: e.error for e in probe(converted, quantised, *seen)}
    assert [loss.block for loss in losses] == BLOCKS
    assert all(after[name] < before[name] for name in BLOCKS if before[name] > 1e-3)
    assert all(loss.after <= loss.before for loss in losses)
    assert after["conv_out"] < before["conv_out"]


@pytest.mark.usefixtures("few_checks")
def test_what_cannot_be_wrong_does_not_change(flat_quantised, noised):
    converted, fresh = convert(flat_quantised), convert(flat_quantised)
    losses = fine_tune(converted, flat_quantised, noised, steps_per_block=1, batch_size=2)
    exact = {loss.block: loss.before for loss in losses}
    assert exact["time_embedding"] < 1e-10
    assert exact["conv_in"] < 1e-10
    tail = ("unet.conv_norm_out.", "unet.conv_out.")  # the tail is never fine-tuned
    for name, p in converted.named_parameters():
        if name.startswith(tail):
            assert torch.equal(p, fresh.get_parameter(name)), name


@pytest.mark.usefixtures("few_checks")
def test_what_does_not_help_is_taken_back(flat_quantised, noised):
    converted, fresh = convert(flat_quantised), convert(flat_quantised)
    losses = fine_tune(converted, flat_quantised, noised, steps_per_block=1, batch_size=2, lr=10.0)
    assert all(loss.after == loss.before for loss in losses)
    pairs = zip(converted.parameters(), fresh.parameters(), strict=True)
    assert all(torch.equal(tuned, given) for tuned, given in pairs)


@pytest.mark.usefixtures("few_checks")
@pytest.mark.parametrize("train_thresholds", [False, True])
def test_thresholds_are_frozen_unless_asked_for(flat_quantised, noised, train_thresholds):
    converted, fresh = (convert(flat_quantised, norm="per_step") for _ in range(2))
    learning = {"batch_size": 8, "lr": 1e-3, "train_thresholds": train_thresholds}
    fine_tune(converted, flat_quantised, noised, 1, **learning)
    moved = {
        n for n, p in converted.named_parameters() if not torch.equal(p, fresh.get_parameter(n))
    }
    assert any(name.endswith("layer.weight") for name in moved)
    assert any(name.endswith("clip") for name in moved) == train_thresholds


@pytest.mark.usefixtures("few_checks")
def test_the_quantised_network_stays_as_it_is(flat_quantised, noised):
    before = {key: tensor.clone() for key, tensor in flat_quantised.state_dict().items()}
    fine_tune(convert(flat_quantised), flat_quantised, noised, 1, batch_size=4)
    assert all(torch.equal(before[k], tensor) for k, tensor in flat_quantised.state_dict().items())


@pytest.mark.usefixtures("few_checks")
def test_the_seed_decides(flat_quantised, noised):
    def tuned(seed):
        model = convert(flat_quantised, norm="per_step")
        fine_tune(model, flat_quantised, again(noised, seed), 1, batch_size=2, lr=1e-3)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    torch.manual_seed(0)
    first = tuned(3)
    torch.manual_seed(99)
    assert torch.equal(first, tuned(3))
    assert not torch.equal(first, tuned(4))


def test_the_wrong_reference_is_refused(make_unet, quantised, noised):
    other = quantise(make_unet(block_out_channels=(4, 8)), 2)
    with pytest.raises(UserError, match="must be the one that was converted"):
        fine_tune(convert(quantised), other, noised, 1)
    with pytest.raises(UserError, match="at least one"):
        NoisedImages(torch.zeros(0, 1, 8, 8), noised.alphas_cumprod)


def test_the_picture_of_the_probe(flat_quantised, noised, tmp_path):
    drawn = noised.draw(4)
    errors = {
        spikes: probe(convert(flat_quantised, spikes=spikes), flat_quantised, *drawn)
        for spikes in ("signed", "unsigned")
    }
    assert errors["signed"][-1].layer == "conv_out"
    path = tmp_path / "pictures" / "probe.png"
    plot_conversion_errors(errors, path)
    assert path.read_bytes().startswith(b"\x89PNG")
