"""Synaptic current learning: the authors' numbers (golden file C2), and laws of the terms."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from goldens import Golden
from spikediff.diffusion.objective import draw_noise, target_of
from spikediff.diffusion.scheduler_config import image_and_noise
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.errors import UserError
from spikediff.systems.fsddim.loss import noise_weight, synaptic_current_loss, weigh_consistency
from spikediff.systems.fsddim.released import fsddim_key
from spikediff.systems.fsddim.scheduler import SynapticCurrentDDIMScheduler, step_gains
from spikediff.systems.released import load_authors_checkpoint
from spikediff.training.build import Parts, build_objective
from spikediff.training.recipe import check_recipe, recipe_from

COSINE = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
TYPES = ["epsilon", "sample", "v_prediction"]


@pytest.fixture(scope="module")
def c2():
    return Golden("C2_fsddim_loss")


def schedule(c2, dtype):
    """The noise schedule with the tables that the numbers were made with."""
    scheduler = make_scheduler("ddpm", COSINE)
    name = "schedule/alphas_cumprod" if dtype == torch.float32 else SCHEDULE_F64
    scheduler.alphas_cumprod = c2[name]
    return scheduler


SCHEDULE_F64 = "schedule/cosine/alphas_cumprod_f64"
MODES = {"train_genuine": 2**-0.5, "train_released": 1.0, "eval_genuine": 2**-0.5}


def losses(c2, mode, dtype):
    """The model, and all terms; `spike_level` with weight 1 apart, for it is not in the total."""
    state = Golden("C1_fsddim_unet").state() if not c2.state() else c2.state()
    model = load_authors_checkpoint(
        state, "fsddim", spiking_steps=4, sample_size=16, residual_alpha=MODES[mode]
    )
    model = model.to(dtype).train(mode.startswith("train"))
    inputs = [c2["in/x_0"].to(dtype), c2["in/t"], c2["in/eps"].to(dtype)]
    scheduler = schedule(c2, dtype)
    terms = synaptic_current_loss(
        model,
        scheduler,
        *inputs,
        spiking_steps=4,
        consistency=weigh_consistency(scheduler),
        spike_level=1.0,
    )
    return model, terms


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", MODES)
def test_terms(c2, mode, dtype):
    _, terms = losses(c2, mode, dtype)
    suffix, rtol = ("", 1e-5) if dtype == torch.float32 else ("_f64", 1e-10)
    for name, term in terms.items():
        want = c2[f"loss/{mode}/{name}{suffix}"].item()
        assert term.item() == pytest.approx(want, rel=rtol), name
    total = terms["image_level"] + terms["consistency"]
    assert total.item() == pytest.approx(c2[f"loss/{mode}/total{suffix}"].item(), rel=rtol)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", ["train_genuine", "train_released"])
def test_gradients_and_buffers(c2, mode, dtype):
    model, terms = losses(c2, mode, dtype)
    (terms["image_level"] + terms["consistency"]).backward()
    suffix, rtol = ("", 5e-5) if dtype == torch.float32 else ("_f64", 1e-9)
    state, compared = c2.state() or Golden("C1_fsddim_unet").state(), 0
    for name, parameter in model.named_parameters():
        want = c2.tensors.get(f"grad/{mode}/{fsddim_key(name, state, 1)}{suffix}")
        if want is not None:
            error = (parameter.grad - want.view_as(parameter)).norm() / want.norm()
            assert error < rtol, name
            compared += 1
    assert compared == 8
    buffers = {fsddim_key(name, state, 1): b for name, b in model.named_buffers()}
    after = {k.removeprefix(f"after/{mode}/"): v for k, v in c2.tensors.items() if mode in k}
    after = {k: v for k, v in after.items() if k in buffers}
    assert after
    if dtype == torch.float32:
        for name, want in after.items():
            torch.testing.assert_close(buffers[name], want, rtol=1e-5, atol=1e-7)


def test_weights_over_time(c2):
    got = weigh_consistency(SynapticCurrentDDIMScheduler())
    torch.testing.assert_close(got, c2["schedule/w_t_f64"], atol=1e-12, rtol=0)
    torch.testing.assert_close(
        noise_weight(c2[SCHEDULE_F64], "v_prediction").float(), c2["schedule/loss_weight"]
    )


@pytest.mark.parametrize("kind", TYPES)
def test_weights_follow_the_gain_of_one_step_back(kind):
    scheduler = SynapticCurrentDDIMScheduler(prediction_type=kind)
    c = weigh_consistency(scheduler)
    assert c.max() == 1.0
    abar = [1.0, *scheduler.alphas_cumprod.tolist()]
    gain = [abs(step_gains(abar[t + 1], abar[t], kind)[1]) for t in (3, 700)]
    assert (c[3] / c[700]).item() == pytest.approx(gain[0] / gain[1], rel=1e-9)
    assert weigh_consistency(scheduler, 0.5, "constant").unique().tolist() == [0.5]


@pytest.mark.parametrize("kind", TYPES)
def test_image_level_is_the_error_of_the_noise_estimate(kind):
    scheduler = SynapticCurrentDDIMScheduler(prediction_type=kind, beta_schedule="linear")
    abar = float(scheduler.alphas_cumprod[300])
    x_0, eps, error = torch.randn(3, 4, 4, dtype=torch.float64)
    x_t = abar**0.5 * x_0 + (1 - abar) ** 0.5 * eps
    output = {
        "epsilon": eps,
        "sample": x_0,
        "v_prediction": abar**0.5 * eps - (1 - abar) ** 0.5 * x_0,
    }[kind] + error
    _, estimate = image_and_noise(output, x_t, abar, kind)
    weight = noise_weight(torch.tensor(abar, dtype=torch.float64), kind)
    torch.testing.assert_close(weight * error.square(), (estimate - eps).square())


class Answer(nn.Module):
    """A network that answers what it is told."""

    def __init__(self, currents):
        super().__init__()
        self.currents = currents

    def forward(self, sample, timestep):
        assert sample.shape == self.currents.shape
        return SimpleNamespace(sample=self.currents)


@pytest.mark.parametrize("kind", TYPES)
def test_spike_level_is_image_level_and_variance(kind):
    """E (o - y)^2 = (obar - y)^2 + Var o, under the same weights."""
    scheduler = make_scheduler("ddpm", COSINE | {"prediction_type": kind})
    x_0 = torch.rand(5, 1, 4, 4).double()
    timestep = torch.tensor([0, 10, 400, 800, 990])
    _, eps = draw_noise(tuple(x_0.shape), 1000, torch.Generator().manual_seed(0))
    alpha_bar = scheduler.alphas_cumprod.double()
    terms = synaptic_current_loss(
        Answer(torch.randn(4, *x_0.shape).double()),
        scheduler,
        x_0,
        timestep,
        eps.double(),
        spiking_steps=4,
        consistency=noise_weight(alpha_bar, kind),
        spike_level=1.0,
    )
    both = terms["image_level"] + terms["consistency"]
    assert terms["spike_level"].item() == pytest.approx(both.item(), rel=1e-9)


def test_only_equal_and_right_answers_are_free():
    scheduler, x_0 = make_scheduler("ddpm", COSINE), torch.rand(2, 1, 4, 4)
    timestep, eps = draw_noise((2, 1, 4, 4), 1000, torch.Generator().manual_seed(1))
    right = target_of(scheduler, x_0, eps, timestep)
    options = {"spiking_steps": 2, "consistency": weigh_consistency(scheduler)}

    def terms(currents):
        return synaptic_current_loss(Answer(currents), scheduler, x_0, timestep, eps, **options)

    apart = torch.stack([right - 1, right + 1])
    assert terms(torch.stack([right, right])) == {"image_level": 0, "consistency": 0}
    assert terms(apart)["image_level"] == pytest.approx(0, abs=1e-12)
    want = options["consistency"][timestep].mean().item()
    assert terms(apart)["consistency"].item() == pytest.approx(want, rel=1e-5)


def test_recipes_choose_the_loss():
    model = {"network": "synaptic_current_unet", "neuron": "lif", "spiking_steps": 2}
    recipe = recipe_from({"model": model, "loss": {"name": "synaptic_current"}}, "here")
    check_recipe(recipe)
    x_0, timestep, eps = torch.zeros(1, 1, 4, 4), torch.tensor([5]), torch.zeros(1, 1, 4, 4)
    objective = build_objective(Parts(recipe, 4, 1))
    losses = objective(Answer(torch.ones(2, 1, 1, 4, 4)), x_0, timestep, eps)
    assert list(losses.terms) == ["image_level", "consistency"]
    check_recipe(recipe_from({"model": model}, "here"))
    with pytest.raises(UserError, match="no loss of spiking_unet; choose from denoising"):
        check_recipe(recipe_from({"loss": {"name": "synaptic_current"}}, "here"))
