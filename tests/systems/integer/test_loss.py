"""The loss of an integer network: neighbours in time, and what the penalties weigh."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from spikediff.errors import UserError
from spikediff.systems.integer.loss import IntegerObjective
from spikediff.training import recipe_from
from spikediff.training.build import Parts


def objective(**loss):
    recipe = recipe_from({"model": {"network": "integer_unet"}}, "here")
    return IntegerObjective(Parts(recipe, 8, 1), **loss)


class Watching(nn.Module):
    """A network that keeps its input and answers with zeros."""

    def forward(self, x_t, timestep, paired):
        self.seen = x_t, timestep, paired
        rate, change = torch.tensor(0.5), torch.tensor(0.25)
        return SimpleNamespace(sample=torch.zeros_like(x_t), rate=rate, change=change)


def test_the_second_half_of_a_batch_is_the_first_a_step_of_20_later():
    losses, network = objective(rate_penalty=0.1, change_penalty=2.0), Watching()
    x_0, eps = torch.randn(2, 4, 1, 8, 8)
    terms = losses(network, x_0, torch.tensor([3, 980, 0, 0]), eps).terms
    x_t, timestep, paired = network.seen
    assert paired
    assert timestep.tolist() == [3, 980, 53, 999], "not behind the last timestep"
    twice = [torch.cat([x[:2], x[:2]]) for x in (x_0, eps)]
    assert torch.equal(x_t, losses.schedule.add_noise(*twice, timestep))
    assert terms["denoising"].item() == pytest.approx(twice[1].square().mean().item())
    assert terms["rate"].item() == pytest.approx(0.1 * 0.5)
    assert terms["change"] == 2.0 * 0.25


def test_without_a_penalty_of_changes_every_image_counts_once():
    network, x_0 = Watching(), torch.randn(3, 1, 8, 8)
    losses = objective()(network, x_0, torch.tensor([3, 980, 7]), torch.randn(3, 1, 8, 8))
    assert network.seen[1].tolist() == [3, 980, 7]
    assert not network.seen[2]
    assert losses.terms.keys() == {"denoising"}
    assert losses.watched == {"t_x_rate": 0.5}


@pytest.mark.parametrize("settings", [{"data": {"batch_size": 3}}, {"model": {"num_classes": 2}}])
def test_batches_that_cannot_be_paired_are_refused(settings):
    model = {"network": "integer_unet", **settings.get("model", {})}
    recipe = recipe_from({**settings, "model": model}, "here")
    IntegerObjective(Parts(recipe, 8, 1))
    with pytest.raises(UserError, match=r"omit model\.num_classes, and choose an even data"):
        IntegerObjective(Parts(recipe, 8, 1), change_penalty=1.0)


@pytest.mark.parametrize("images", [1, 3])
def test_a_part_of_a_batch_that_cannot_be_paired_is_refused(images):
    x_0, eps = torch.randn(2, images, 1, 8, 8)
    with pytest.raises(UserError, match=rf"here {images}; make them even with data\.batch_size"):
        objective(change_penalty=1.0)(Watching(), x_0, torch.zeros(images).long(), eps)


@pytest.mark.parametrize("penalty", ["rate_penalty", "change_penalty"])
def test_the_ordinary_counterpart_has_no_spikes_to_penalise(penalty):
    recipe = recipe_from({"model": {"network": "integer_unet", "activation": "silu"}}, "here")
    IntegerObjective(Parts(recipe, 8, 1), **{penalty: 0.0})
    with pytest.raises(UserError, match=r"silu emits no spikes .*; set loss.rate_penalty and loss"):
        IntegerObjective(Parts(recipe, 8, 1), **{penalty: 0.1})
