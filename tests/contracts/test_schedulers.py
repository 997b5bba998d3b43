"""What diffusers expects of a scheduler, of every scheduler class of the package.

The list is that of diffusers' common tests: saving and loading, steps of a device and a type,
outputs, shapes, noising. Timesteps and noise schedules have tests of their own in tests/diffusion.
"""

import inspect
import json

import pytest
import torch
from contracts_small import classes_of, scheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from spikediff.diffusion.schedulers import SCHEDULERS

NAMES = sorted({class_name for class_name, _ in SCHEDULERS.values()} | {"AbsorbingStateScheduler"})
IMAGES = sorted(set(NAMES) - {"AbsorbingStateScheduler"})


def test_every_class_is_here():
    assert set(classes_of(SchedulerMixin)) <= set(NAMES)


def written(made):
    config = json.loads(made.to_json_string())
    return {key: value for key, value in config.items() if not key.startswith("_")}


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded(name, tmp_path):
    made = scheduler(name)
    made.save_pretrained(tmp_path)
    again = type(made).from_pretrained(tmp_path)
    assert written(again) == written(made)
    assert written(type(made).from_config(made.config)) == written(made)


def first_step(made, dtype=torch.float32, **options):
    made.set_timesteps(10)
    shape = (2, 3, 4, 4)
    output, sample = torch.ones(2, *shape, dtype=dtype) * 0.1
    known = inspect.signature(made.step).parameters
    drawn = {"generator": torch.Generator().manual_seed(0)} if "generator" in known else {}
    if type(made).__name__ == "AbsorbingStateScheduler":
        output, sample = torch.zeros(2, 16, 4, 4), torch.full((2, 4, 4), 16)
    return made.step(output, made.timesteps[0], sample, **drawn, **options), sample


@pytest.mark.parametrize("name", NAMES)
def test_a_step_keeps_the_shape_and_gives_a_tuple_too(name):
    (step, sample), (as_tuple, _) = (
        first_step(scheduler(name)),
        first_step(scheduler(name), return_dict=False),
    )
    assert step.prev_sample.shape == sample.shape
    assert torch.equal(step.prev_sample, as_tuple[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", IMAGES)
def test_a_step_keeps_the_type(name, dtype):
    step, _ = first_step(scheduler(name), dtype)
    assert step.prev_sample.dtype == dtype
    assert step.prev_sample.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_timesteps_fall_and_are_set_anew(name):
    made = scheduler(name)
    for steps in (7, 3, 7):
        made.set_timesteps(steps)
        assert len(made.timesteps) == steps
        assert (made.timesteps[:-1] > made.timesteps[1:]).all()


@pytest.mark.parametrize("name", IMAGES)
def test_noise_is_added_by_the_timestep(name):
    made = scheduler(name)
    made.set_timesteps(5)
    timesteps = made.timesteps[[0, 4]]
    images, noise = torch.ones(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    noisy = made.add_noise(images, noise, timesteps)
    expected = made.alphas_cumprod[timesteps].sqrt().float()
    torch.testing.assert_close(noisy[:, 0, 0, 0], expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", IMAGES)
def test_a_sample_is_shown_as_it_is(name):
    made = scheduler(name)
    made.set_timesteps(5)
    sample = torch.randn(1, 1, 2, 2)
    assert torch.equal(made.scale_model_input(sample, made.timesteps[0]), sample)
    assert made.init_noise_sigma == 1.0
    assert len(made) == 1000


def test_tokens_are_shown_as_they_are():
    made = scheduler("AbsorbingStateScheduler")
    made.set_timesteps(5)
    tokens = torch.randint(17, (1, 2, 2))
    assert torch.equal(made.scale_model_input(tokens, made.timesteps[0]), tokens)
    assert len(made) == made.config.num_train_timesteps
