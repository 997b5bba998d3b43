"""The rotation: identities in float64, and ordinary DDIM as the oracle."""

import math

import pytest
import torch
from diffusers import DDIMScheduler

from spikediff.errors import UserError
from spikediff.layers.coding import mean
from spikediff.systems.fsddim.scheduler import SynapticCurrentDDIMScheduler, angle, step_gains

TYPES = ["epsilon", "sample", "v_prediction"]


def ddim(alpha_bar_t, alpha_bar_s, current, output, kind):
    """The equation of the DDIM paper, written out: x_0 and eps, then the next x."""
    a, sigma = math.sqrt(alpha_bar_t), math.sqrt(1 - alpha_bar_t)
    x_0, eps = {
        "epsilon": lambda: ((current - sigma * output) / a, output),
        "sample": lambda: (output, (current - a * output) / sigma),
        "v_prediction": lambda: (a * current - sigma * output, a * output + sigma * current),
    }[kind]()
    return math.sqrt(alpha_bar_s) * x_0 + math.sqrt(1 - alpha_bar_s) * eps


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(
    ("t", "s"), [(999, 998), (999, 0), (500, 120), (17, 16), (1, 0), (0, None)]
)
def test_two_scalars_are_ddim(kind, t, s):
    abar = SynapticCurrentDDIMScheduler(beta_schedule="linear").alphas_cumprod
    a_t, a_s = float(abar[t]), 1.0 if s is None else float(abar[s])
    current, output = torch.randn(2, 4, 3, dtype=torch.float64)
    g_current, g_output = step_gains(a_t, a_s, kind)
    want = ddim(a_t, a_s, current, output, kind)
    torch.testing.assert_close(g_current * current + g_output * output, want, atol=1e-12, rtol=0)


@pytest.mark.parametrize("schedule", ["squaredcos_cap_v2", "linear", "scaled_linear"])
def test_v_turns_by_the_difference_of_the_angles(schedule):
    abar = SynapticCurrentDDIMScheduler(beta_schedule=schedule).alphas_cumprod.tolist()
    for t, s in [(999, 998), (700, 3), (40, 39), (999, 0)]:
        c, minus_s = step_gains(abar[t], abar[s])
        assert c**2 + minus_s**2 == pytest.approx(1, abs=1e-14)
        assert c == pytest.approx(math.cos(angle(abar[t]) - angle(abar[s])), abs=1e-14)
        product = math.sqrt(abar[t] * abar[s]) + math.sqrt((1 - abar[t]) * (1 - abar[s]))
        assert c == pytest.approx(product, abs=1e-12)


def test_two_turns_are_one_turn():
    """Skipping is exact for an output that turns along: v(s) = -sin(delta) I + cos(delta) v."""
    abar = SynapticCurrentDDIMScheduler().alphas_cumprod.tolist()
    current, v = torch.randn(2, 5, dtype=torch.float64)
    x, w = current, v
    for t, s in [(900, 600), (600, 250), (250, 10)]:
        c, minus_s = step_gains(abar[t], abar[s])
        x, w = c * x + minus_s * w, -minus_s * x + c * w
    c, minus_s = step_gains(abar[900], abar[10])
    torch.testing.assert_close(x, c * current + minus_s * v, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", TYPES)
def test_decoding_and_stepping_commute(kind):
    scheduler = SynapticCurrentDDIMScheduler(prediction_type=kind)
    scheduler.set_timesteps(20)
    currents, outputs = torch.randn(2, 8, 3, 1, 4, 4, dtype=torch.float64)
    for t in scheduler.timesteps[[0, 7, 19]]:
        if kind == "epsilon" and t == 999:
            continue  # divides by 5e-5, so that rounding alone exceeds the bound
        stepped = scheduler.step(outputs, t, currents).prev_sample
        decoded = scheduler.step(mean(outputs), t, mean(currents)).prev_sample
        torch.testing.assert_close(mean(stepped), decoded, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("steps", [10, 20, 50, 100, 1000])
def test_one_spiking_step_is_ordinary_ddim(kind, steps):
    settings = {"beta_schedule": "linear", "prediction_type": kind}
    ours = SynapticCurrentDDIMScheduler(**settings)
    theirs = DDIMScheduler(
        **settings, clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing"
    )
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(steps)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    x = torch.randn(1, 1, 1, 4, 4, dtype=torch.float64)  # T = 1
    for t in ours.timesteps[:: max(1, steps // 10)]:
        output = torch.tanh(x)
        got = ours.step(output, t, x).prev_sample
        want = theirs.step(output[0], int(t), x[0]).prev_sample
        torch.testing.assert_close(got[0], want, atol=2e-6, rtol=2e-5)
        x = got


def test_the_schedule_can_be_left_at_any_timestep():
    scheduler = SynapticCurrentDDIMScheduler()
    scheduler.set_timesteps(timesteps=torch.tensor([800, 300, 299, 5]))
    assert scheduler.timesteps.tolist() == [800, 300, 299, 5]
    abar = scheduler.alphas_cumprod.tolist()
    assert scheduler.gains(300) == step_gains(abar[300], abar[299])
    assert scheduler.gains(5) == step_gains(abar[5], 1.0)
    with pytest.raises(UserError, match="not one of the timesteps set"):
        scheduler.gains(700)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"num_inference_steps": 0},
        {"num_inference_steps": 1001},
        {"num_inference_steps": 3, "timesteps": [3, 2]},
        {"timesteps": [2, 3]},
        {"timesteps": []},
        {"timesteps": [1000]},
        {"timesteps": torch.tensor([1, 5])},
    ],
)
def test_wrong_timesteps_are_told(wrong):
    with pytest.raises(UserError, match=r"timesteps|num_inference_steps"):
        SynapticCurrentDDIMScheduler().set_timesteps(**wrong)


def test_save_and_load(tmp_path):
    scheduler = SynapticCurrentDDIMScheduler(num_train_timesteps=100, beta_schedule="linear")
    scheduler.save_pretrained(tmp_path)
    again = SynapticCurrentDDIMScheduler.from_pretrained(tmp_path)
    assert torch.equal(again.alphas_cumprod, scheduler.alphas_cumprod)
    assert len(again) == 100
