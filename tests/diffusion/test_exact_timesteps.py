"""Any number of steps: that many timesteps, valid and distinct, each step landing on the next."""

import copy
import pickle

import diffusers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikediff.diffusion.exact_timesteps import EXACT, exact, visiting
from spikediff.diffusion.schedulers import SCHEDULERS, make_scheduler
from spikediff.errors import UserError

SPREAD = 0.25  # standard deviation of the data
DETERMINISTIC = sorted(set(SCHEDULERS) - {"ddpm", "analytic-dpm"})
SPACINGS = ("trailing", "linspace", "leading")
FAULTY = (1, 61, 62, 167)  # of 1,000; diffusers gives 61 one too many


def scheduler_of(name, longest=1000, **settings):
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, longest, dtype=torch.float64), 0)
    h = ((1 - abar) / (abar * SPREAD**2 + 1 - abar)).tolist()
    config = {"beta_schedule": "linear", "prediction_type": "epsilon", "second_moment": h}
    return make_scheduler(name, {**config, "num_train_timesteps": longest, **settings})


@pytest.mark.parametrize("name", SCHEDULERS)
@given(st.data())
@settings(max_examples=25)
def test_as_many_timesteps_as_asked_for(name, data):
    longest = data.draw(st.integers(1, 1500), label="num_train_timesteps")
    scheduler = scheduler_of(name, longest)
    spacing = data.draw(st.sampled_from(SPACINGS), label="timestep_spacing")
    scheduler.register_to_config(timestep_spacing=spacing)
    steps = data.draw(st.integers(1, longest), label="num_inference_steps")
    scheduler.set_timesteps(steps)
    visited = scheduler.timesteps.tolist()
    assert visited == sorted(set(visited), reverse=True)
    assert len(visited) == steps == scheduler.num_inference_steps
    assert 0 <= visited[-1] <= visited[0] < longest
    if spacing != "leading":
        assert visited[0] == longest - 1
    if hasattr(scheduler, "sigmas"):
        assert len(scheduler.sigmas) == steps + 1
        assert scheduler.sigmas.isfinite().all()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_steps_of_a_thousand(name):
    scheduler = scheduler_of(name)
    for steps in (*range(1, 130), *range(990, 1001)):
        scheduler.set_timesteps(steps)
        visited = scheduler.timesteps
        assert len(visited) == steps
        assert visited[0] == 999
        assert visited[-1] >= 0
        assert (visited[:-1] > visited[1:]).all()


def spread(scheduler, steps, seed=0):
    """Return the spread of the samples over that of the data, with the exact denoiser."""
    sampler = visiting(scheduler, steps)
    generator = torch.Generator().manual_seed(seed)
    draws = type(scheduler).__name__ in ("DDPMScheduler", "AnalyticDPMScheduler")
    x = torch.randn(1, 1, 60, 60, generator=generator, dtype=torch.float64) if draws else None
    x = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64) if x is None else x
    first = x.square().mean().sqrt()
    for t in sampler.timesteps:
        abar = sampler.alphas_cumprod[t].double()
        estimate = x * (1 - abar).sqrt() / (abar * SPREAD**2 + 1 - abar)
        extra = {"generator": generator} if draws else {}
        x = sampler.step(estimate, t, x, **extra).prev_sample
    return float(x.square().mean().sqrt() / first / SPREAD)


def assert_right_spread(ratio, steps):
    """A first-order sampler errs in proportion to its longest step, of ceil(1000 / n) timesteps."""
    longest = -(-1000 // steps) / 1000
    assert ratio == pytest.approx(1.0, abs=6.5 * longest)


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("steps", FAULTY)
def test_the_spread_where_it_was_wrong(name, steps):
    assert_right_spread(spread(scheduler_of(name), steps), steps)


@pytest.mark.slow
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_spread_is_right_for_every_number_of_steps(name):
    for steps in range(1, 1001):
        assert_right_spread(spread(scheduler_of(name), steps), steps)


@pytest.mark.parametrize("steps", [61, 167])
@pytest.mark.parametrize(
    ("name", "variance"),
    [("ddpm", "fixed_small"), ("ddpm", "fixed_large"), ("analytic-dpm", None)],
)
def test_the_spread_of_samplers_that_draw(name, variance, steps):
    scheduler = scheduler_of(name, **({"variance_type": variance} if variance else {}))
    assert spread(scheduler, steps) == pytest.approx(1.0, abs=6.5 / steps + 0.06)


def test_ddpm_leaves_no_noise_in_the_image():
    scheduler = scheduler_of("ddpm", variance_type="fixed_large")
    scheduler.set_timesteps(10)
    x_0 = torch.full((1, 1, 8, 8), 0.5)
    step = scheduler.step(torch.zeros(1, 1, 8, 8), 99, x_0 * scheduler.alphas_cumprod[99].sqrt())
    torch.testing.assert_close(step.prev_sample, x_0)


@pytest.mark.parametrize("class_name", EXACT)
@pytest.mark.parametrize("steps", [61, 167])
def test_a_plain_scheduler_of_diffusers_is_visited_exactly(class_name, steps):
    """As in pipelines of folders that name diffusers' classes; what it shows is what was done."""
    plain = getattr(diffusers, class_name)(timestep_spacing="trailing")
    assert_right_spread(spread(plain, steps), 15 if "DDPM" in class_name else steps)
    assert len(plain.timesteps) == steps
    assert type(plain) is getattr(diffusers, class_name)


@pytest.mark.parametrize("class_name", EXACT)
def test_what_is_saved_names_diffusers(class_name, tmp_path):
    scheduler = EXACT[class_name](num_train_timesteps=100, timestep_spacing="trailing")
    scheduler.save_pretrained(tmp_path)
    theirs = getattr(diffusers, class_name)
    loaded = theirs.from_pretrained(tmp_path)
    assert type(loaded) is theirs
    assert dict(loaded.config, _use_default_values=[]) == dict(
        scheduler.config, _use_default_values=[]
    )
    assert (type(scheduler).__module__, type(scheduler).__name__) == (
        theirs.__module__,
        theirs.__name__,
    )


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_a_copy_is_as_exact(copied):
    scheduler = copied(make_scheduler("ddim"))
    scheduler.set_timesteps(61)
    assert type(scheduler) is EXACT["DDIMScheduler"]
    assert len(scheduler.timesteps) == 61


def test_other_classes_stay_as_they_are():
    euler = diffusers.EulerDiscreteScheduler(timestep_spacing="trailing")
    assert exact(euler) is euler
    assert len(visiting(euler, 60).timesteps) == 60
    with pytest.raises(UserError, match="61 gives 62 timesteps"):
        visiting(euler, 61)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [-1, 0, 1001])
def test_no_such_number_of_steps(name, steps):
    with pytest.raises(UserError, match="must lie between 1 and 1000"):
        scheduler_of(name).set_timesteps(steps)


def test_timesteps_outside_of_the_training_are_refused():
    scheduler = EXACT["DDIMScheduler"](steps_offset=700)
    with pytest.raises(UserError, match="steps_offset=0"):
        scheduler.set_timesteps(2)


def test_the_timesteps_themselves():
    scheduler = make_scheduler("ddpm")
    scheduler.set_timesteps(timesteps=[900, 5, 0])
    assert scheduler.timesteps.tolist() == [900, 5, 0]


def test_what_makes_no_scheduler_is_refused():
    with pytest.raises(UserError, match="unknown scheduler 'dimm'; did you mean 'ddim'"):
        make_scheduler("dimm")
    with pytest.raises(UserError, match="unknown scheduler None"):
        make_scheduler(None)
    with pytest.raises(UserError, match="config = 3 must be a mapping"):
        make_scheduler("ddim", 3)
