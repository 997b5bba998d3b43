"""The second moment that Analytic-DPM needs: exact for known data, the same for any batching."""

import json
import math
from types import SimpleNamespace

import pytest
import torch

from mixture import MIXTURE
from sizes import ONE_LEVEL
from spikediff.diffusion.analytic_dpm import AnalyticDPMScheduler
from spikediff.diffusion.calibration import (
    calibration_timesteps,
    estimate_second_moment,
    load_calibration,
    save_calibration,
)
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.scheduler_config import PREDICTION_TYPES
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.errors import UserError
from spikediff.pretrained import pretrained_folder
from spikediff.systems.sddpm.network import SpikingUNet

ALPHA_BAR = make_scheduler("ddpm").alphas_cumprod.double()


def perfect(prediction_type="epsilon"):
    """The denoiser that the mixture deserves, pixel by pixel."""

    def answer(x_t, t):
        abar = ALPHA_BAR[t]
        eps = MIXTURE.noise_estimate(x_t, abar)
        x_0 = (x_t - (1 - abar).sqrt() * eps) / abar.sqrt()
        v = abar.sqrt() * eps - (1 - abar).sqrt() * x_0
        return SimpleNamespace(
            sample={"epsilon": eps, "sample": x_0, "v_prediction": v}[prediction_type]
        )

    return answer


def images(count):
    draw = torch.Generator().manual_seed(7)
    shape = (count, 1, 16, 16)
    lump = torch.multinomial(MIXTURE.weights, count * 256, replacement=True, generator=draw)
    lump = lump.reshape(shape)  # every pixel is drawn from the mixture on its own
    noise = torch.randn(shape, dtype=torch.float64, generator=draw)
    return MIXTURE.means[lump] + MIXTURE.stds[lump] * noise


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_calibration_finds_the_exact_second_moment(prediction_type):
    timesteps = [0, 20, 150, 500, 999]
    got = estimate_second_moment(
        perfect(prediction_type),
        images(200),
        ALPHA_BAR,
        timesteps,
        prediction_type=prediction_type,
    )
    exact = torch.tensor([MIXTURE.second_moment(ALPHA_BAR[t]) for t in timesteps]).double()
    # 51,200 pixels: the standard error of a mean square is about sqrt(2 / 51200) = 0.006.
    torch.testing.assert_close(got, exact, atol=0.02, rtol=0)


def test_known_noise_power_makes_the_noisy_end_precise():
    """Over N pixels it errs by 2 sqrt((1 - h) / N), the mean square alone by sqrt(2 / N)."""
    t, answer, data = 800, perfect(), images(50)
    exact = MIXTURE.second_moment(ALPHA_BAR[t])
    errors = [
        estimate_second_moment(answer, data, ALPHA_BAR, [t], seed=seed).item() - exact
        for seed in range(20)
    ]
    root_mean_square = math.sqrt(sum(e**2 for e in errors) / 20)
    expected = 2 * math.sqrt((1 - exact) / data.numel())
    assert root_mean_square == pytest.approx(expected, rel=0.5)
    assert root_mean_square < math.sqrt(2 / data.numel()) / 20


def test_calibration_depends_on_the_seed_but_on_no_batch_and_no_other_timestep():
    data, answer = images(10).float(), perfect()
    once = estimate_second_moment(answer, data, ALPHA_BAR, [0, 100, 700], seed=3, batch_size=10)
    again = estimate_second_moment(answer, data, ALPHA_BAR, [100], seed=3, batch_size=3)
    other = estimate_second_moment(answer, data, ALPHA_BAR, [100], seed=4, batch_size=10)
    assert again.item() == pytest.approx(once[1].item(), rel=1e-12)
    assert again.item() != pytest.approx(other.item(), rel=1e-6)


def test_an_image_meets_the_same_noise_at_every_timestep():
    shown = []

    def watch(x_t, t):
        shown.append(x_t / (1 - ALPHA_BAR[t]).sqrt())  # of black images only the noise is left
        return SimpleNamespace(sample=x_t)

    estimate_second_moment(watch, torch.zeros(3, 1, 4, 4), ALPHA_BAR, [10, 900], batch_size=2)
    clean, noisy = torch.cat(shown[:2]), torch.cat(shown[2:])
    torch.testing.assert_close(clean, noisy)
    assert not torch.equal(clean[0], clean[1])


def scheduler_knowing(timesteps):
    return AnalyticDPMScheduler(
        second_moment=[MIXTURE.second_moment(ALPHA_BAR[t]) for t in timesteps],
        second_moment_timesteps=timesteps,
    )


def test_default_grid_is_as_good_as_all_timesteps():
    grid = calibration_timesteps(1000)
    assert grid[0] == 0
    assert grid[-1] == 999
    sparse = scheduler_knowing(grid)
    for steps in (10, 50, 150):
        sparse.set_timesteps(steps)
        visited = sparse.timesteps.tolist()[::-1]
        full = scheduler_knowing(visited)
        full.set_timesteps(steps)
        for t in visited[1:]:
            assert sparse.variance(t) == pytest.approx(full.variance(t), rel=0.02)


REFUSED = {
    ".eval()": {"denoiser": torch.nn.Identity()},
    "at least one": {"images": torch.zeros(0, 1, 4, 4)},
    "floating-point": {"images": torch.zeros(1, 1, 4, 4, dtype=torch.uint8)},
    "0 to 999": {"timesteps": [1000]},
    "batch_size": {"batch_size": 0},
    "finite": {"denoiser": lambda x, _: SimpleNamespace(sample=x * torch.nan)},
}


@pytest.mark.parametrize("words", REFUSED)
def test_calibration_refuses_what_cannot_be_measured(words):
    sound = {
        "denoiser": lambda x, _: SimpleNamespace(sample=x),
        "images": torch.zeros(2, 1, 4, 4),
        "alphas_cumprod": ALPHA_BAR,
        "timesteps": [0],
    }
    estimate_second_moment(**sound)
    with pytest.raises(UserError, match=words) as refusal:
        estimate_second_moment(**{**sound, **REFUSED[words]})
    assert "\n" not in str(refusal.value)


def test_a_grid_needs_two_ends():
    with pytest.raises(UserError, match="2 or more"):
        calibration_timesteps(1000, 1)


def test_a_spiking_network_end_to_end(tmp_path):
    """Measure, put the curve into the pipeline, save, load: the same images."""
    torch.manual_seed(0)
    unet = SpikingUNet(**ONE_LEVEL).eval()
    pipe = SpikingDiffusionPipeline(unet, make_scheduler("ddpm"))
    pipe.set_progress_bar_config(disable=True)
    images = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    timesteps = calibration_timesteps(1000, 5)
    h = estimate_second_moment(unet, images, pipe.scheduler.alphas_cumprod, timesteps)
    curve = {"second_moment": h.tolist(), "second_moment_timesteps": timesteps}
    pipe.scheduler = make_scheduler("analytic-dpm", {**pipe.scheduler.config, **curve})
    first = pipe(seeds=[4, 5], num_inference_steps=3, output_type="pt").images
    pipe.save_pretrained(tmp_path)
    loaded = SpikingDiffusionPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert isinstance(loaded.scheduler, AnalyticDPMScheduler)
    again = loaded(seeds=[5], num_inference_steps=3, output_type="pt").images
    assert torch.equal(again[0], first[1])


MEASURED = {
    "second_moment": [0.5, 0.9],
    "second_moment_timesteps": [0, 999],
    "clip_last_noise": None,
}


@pytest.fixture
def calibrated(tmp_path):
    """A pipeline's folder with a calibration; its weights are only hashed."""
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"weights")
    save_calibration(tmp_path, MEASURED, {"images": 2})
    return tmp_path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"second_moment": [0.5]}, "second_moment has 1 numbers for 2 timesteps"),
        ({"second_moment": [], "second_moment_timesteps": []}, "index out of range"),
        ({"second_moment": 0.5}, "a list of finite numbers"),
        ({"second_moment": [0.5, "0.9"]}, "must be a finite number"),
        ({"second_moment": [0.5, math.inf]}, "must be a finite number"),
        ({"second_moment": [0.5, 10**400]}, "must be a finite number"),
        ({"second_moment_timesteps": [0, 9.5]}, "numbers that increase, within 0 to 9.5"),
        ({"second_moment_timesteps": [-1, 999]}, "numbers that increase, within 0 to 999"),
        ({"second_moment_timesteps": [9, 9]}, "numbers that increase, within 0 to 9"),
        ({"clip_last_noise": -1}, "clip_last_noise = -1 must not be negative"),
        ({"clip_last_noise": True}, "clip_last_noise = True must be a finite number"),
    ],
)
def test_a_damaged_calibration_is_one_line(calibrated, change, words):
    assert load_calibration(calibrated) == MEASURED
    path = calibrated / "calibration.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"settings": MEASURED | change}))
    with pytest.raises(UserError) as caught:
        load_calibration(calibrated)
    assert "calibration.json: is damaged (" in str(caught.value)
    assert words in str(caught.value)
    assert str(caught.value).endswith(f"; run `spikediff calibrate {calibrated}`")


def test_the_command_in_a_message_is_one_that_works(calibrated, tmp_path):
    shipped = pretrained_folder("digits")
    for folder, source, named in (
        (calibrated, tmp_path / "run", str(tmp_path / "run")),
        (shipped / "pipeline", shipped, "digits"),
    ):
        with pytest.raises(UserError) as caught:
            load_calibration(folder, tmp_path / "none", source)
        assert str(caught.value) == (
            f"{named}: analytic-dpm needs a calibration; run `spikediff calibrate {named}`"
        )


def test_a_folder_without_weights_has_nothing_to_calibrate(tmp_path):
    with pytest.raises(UserError, match="has no pipeline to calibrate; give a finished run"):
        save_calibration(tmp_path, MEASURED, {})
