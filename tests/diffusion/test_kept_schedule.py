"""A scheduler made of another one's configuration has its noise schedule and prediction type."""

import json

import diffusers
import pytest
import torch

from spikediff.diffusion.analytic_dpm import AnalyticDPMScheduler
from spikediff.diffusion.schedulers import SCHEDULERS, make_scheduler
from spikediff.errors import UserError
from spikediff.systems.fsddim.scheduler import SynapticCurrentDDIMScheduler

OTHERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LCMScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)
SETTINGS = (
    {},
    {
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": "v_prediction",
        "num_train_timesteps": 200,
    },
    {"beta_schedule": "scaled_linear", "beta_end": 0.01, "num_train_timesteps": 100},
    {"trained_betas": torch.linspace(1e-3, 0.1, 50).tolist(), "num_train_timesteps": 50},
)
ZERO_SNR = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}


def assert_same_schedule(one, other):
    assert one.config.prediction_type == other.config.prediction_type
    torch.testing.assert_close(
        one.alphas_cumprod.float(), other.alphas_cumprod.float(), atol=1e-6, rtol=1e-4
    )
    for key in ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule"):
        assert one.config[key] == other.config[key]


def configurations(scheduler, folder):
    """The configuration in memory, as a plain mapping, and from the disk, whole and old."""
    yield scheduler.config
    yield dict(scheduler.config)
    scheduler.save_config(folder)
    written = json.loads((folder / scheduler.config_name).read_text())
    yield written
    default = type(scheduler)()
    old = {k: v for k, v in written.items() if k not in default.config or default.config[k] != v}
    yield {**old, "_class_name": type(scheduler).__name__}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("class_name", OTHERS)
def test_every_sampler_keeps_the_schedule_of_every_class(class_name, settings, tmp_path):
    source = getattr(diffusers, class_name)(**settings)
    configs = list(configurations(source, tmp_path))
    for name in SCHEDULERS:
        for config in configs:
            assert_same_schedule(make_scheduler(name, config), source)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("ours", [SynapticCurrentDDIMScheduler, AnalyticDPMScheduler])
def test_ours_and_theirs_in_both_directions(ours, settings):
    for class_name in OTHERS:
        theirs = getattr(diffusers, class_name)
        assert_same_schedule(ours.from_config(theirs(**settings).config), theirs(**settings))
        assert_same_schedule(theirs.from_config(ours(**settings).config), ours(**settings))


@pytest.mark.parametrize("ours", [SynapticCurrentDDIMScheduler, AnalyticDPMScheduler])
def test_defaults_of_our_classes_are_known_to_others(ours, tmp_path):
    for config in configurations(ours(), tmp_path):
        assert_same_schedule(make_scheduler("ddim", config), ours())


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_setting_of_the_call_comes_first(name):
    cls = type(make_scheduler(name))
    made = cls.from_config(make_scheduler("ddpm").config, prediction_type="sample", beta_end=0.01)
    assert (made.config.prediction_type, made.config.beta_end) == ("sample", 0.01)


def test_what_is_no_part_of_the_schedule_has_the_new_class_s_default():
    """PNDM's last step leaves noise by default, which is a way of sampling."""
    assert make_scheduler("ddim", diffusers.PNDMScheduler().config).final_alpha_cumprod == 1.0


@pytest.mark.parametrize("name", sorted(set(SCHEDULERS) - {"deis", "analytic-dpm"}))
@pytest.mark.parametrize("beta_schedule", ["linear", "squaredcos_cap_v2"])
def test_zero_terminal_snr_is_kept(name, beta_schedule):
    source = diffusers.DDIMScheduler(**ZERO_SNR, beta_schedule=beta_schedule)
    made = make_scheduler(name, source.config)
    assert_same_schedule(made, source)
    made.set_timesteps(30)
    noised = made.add_noise(torch.ones(1, 1), torch.zeros(1, 1), torch.tensor([999]))
    assert float(noised) < 1e-3
    x = torch.full((1, 1, 1, 1), 0.5)
    for t in made.timesteps:  # an image of nothing but 0.25: v = a eps - sigma x_0
        abar = source.alphas_cumprod[t]
        a, sigma = abar.sqrt(), (1 - abar).sqrt()
        v = a * (x - a * 0.25) / sigma - sigma * 0.25
        x = made.step(v, t, x).prev_sample
    assert float(x) == pytest.approx(0.25, abs=1e-3)


@pytest.mark.parametrize("name", ["deis", "analytic-dpm"])
def test_zero_terminal_snr_is_refused(name):
    with pytest.raises(UserError, match="rescale_betas_zero_snr"):
        make_scheduler(name, diffusers.DDIMScheduler(**ZERO_SNR).config)


def test_nothing_is_known_of_the_image_where_there_is_none():
    with pytest.raises(UserError, match="rescale_betas_zero_snr leaves no image"):
        SynapticCurrentDDIMScheduler(rescale_betas_zero_snr=True, prediction_type="epsilon")


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize(
    "source",
    [
        diffusers.FlowMatchEulerDiscreteScheduler(),
        diffusers.EDMEulerScheduler(),
        diffusers.CogVideoXDDIMScheduler(),
        diffusers.DPMSolverMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction"
        ),
    ],
    ids=lambda source: type(source).__name__,
)
def test_another_kind_of_schedule_is_refused(name, source):
    with pytest.raises(UserError):
        make_scheduler(name, source.config)


@pytest.mark.parametrize("name", sorted(set(SCHEDULERS) - {"ddpm", "analytic-dpm"}))
def test_a_schedule_without_a_table_is_refused(name):
    with pytest.raises(UserError, match="sigmoid"):
        make_scheduler(name, diffusers.DDPMScheduler(beta_schedule="sigmoid").config)
