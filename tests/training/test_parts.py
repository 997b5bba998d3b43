"""The parts of training: order of data, average, loss, precision, run folder."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler
from torch import nn

from spikediff.diffusion.objective import denoising_loss, draw_noise, target_of, timestep_weights
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.diffusion.seeds import derived_generator
from spikediff.errors import UserError
from spikediff.training.batches import BatchPlan
from spikediff.training.build import build_lr_schedule, build_optimizer
from spikediff.training.computation import cpu_has_bf16
from spikediff.training.curve import CurvePoint, LossCurve, read_curve
from spikediff.training.optimizers import averaged, decay_at
from spikediff.training.recipe import EMARecipe, OptimizerRecipe
from spikediff.training.run_folder import RunFolder


def test_every_image_once_an_epoch_in_a_new_order():
    plan = BatchPlan(num_images=10, batch_size=4, seed=0)
    seen = torch.cat([plan.indices(step) for step in range(5)])
    assert seen[:10].sort().values.tolist() == list(range(10))
    assert seen[10:].sort().values.tolist() == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()
    assert plan.position(3) == {"epoch": 1, "image": 2}
    assert torch.equal(plan.indices(3), BatchPlan(10, 4, 0).indices(3))
    assert not torch.equal(plan.indices(0), BatchPlan(10, 4, 1).indices(0))


def test_a_batch_may_be_larger_than_the_data():
    assert BatchPlan(3, 8, 0).indices(0).bincount().tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])


def test_average_keeps_buffers():
    """The law that diffusers' EMAModel breaks: batch norm's statistics are averaged too."""
    model = nn.BatchNorm1d(2)
    average = averaged(model, EMARecipe(decay=0.5, warmup=False))
    for value in (1.0, 2.0, 3.0):
        model.running_mean.fill_(value)
        model.weight.data.fill_(value)
        model.num_batches_tracked.fill_(int(value))
        average.update_parameters(model)
    want = (1.0 * 0.5 + 2.0 * 0.5) * 0.5 + 3.0 * 0.5  # the first update copies
    assert average.module.running_mean.tolist() == pytest.approx([want, want])
    assert average.module.weight.tolist() == pytest.approx([want, want])
    assert average.module.num_batches_tracked == 3


def test_average_warms_up_and_can_be_off():
    recipe = EMARecipe(decay=0.999)
    assert decay_at(recipe, 0) == pytest.approx(0.1)
    assert decay_at(recipe, 10**6) == 0.999
    model = nn.Linear(1, 1)
    off = averaged(model, EMARecipe(decay=0.0))
    for _ in range(3):
        model.weight.data.add_(1.0)
        off.update_parameters(model)
    assert torch.equal(off.module.weight, model.weight)


class Oracle(nn.Module):
    """A network that knows the answer."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, sample, timestep):
        from types import SimpleNamespace

        return SimpleNamespace(sample=self.answer)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_loss_is_zero_for_the_right_answer_and_the_scheduler_agrees(kind):
    scheduler = make_scheduler("ddim", {"prediction_type": kind, "clip_sample": False})
    x_0 = torch.rand(4, 1, 8, 8) * 2 - 1
    timestep, eps = draw_noise(tuple(x_0.shape), 1000, torch.Generator().manual_seed(0))
    target = target_of(scheduler, x_0, eps, timestep)
    loss = denoising_loss(Oracle(target), scheduler, x_0, timestep, eps)
    assert loss == {"denoising": 0}
    loss = denoising_loss(Oracle(target + 1), scheduler, x_0, timestep, eps)
    assert loss["denoising"] == pytest.approx(1)
    # One step to the end with the right answer gives the image back.
    scheduler.set_timesteps(1)
    t = torch.full((4,), 999)
    x_t = scheduler.add_noise(x_0, eps, t)
    answer = target_of(scheduler, x_0, eps, t)
    got = scheduler.step(answer, 999, x_t).prev_sample
    torch.testing.assert_close(got, x_0, atol=2e-3, rtol=0)


def loss_of_a_guess(kind, guess, timestep, **gammas):
    """Return the loss of a network that takes a guess for x_0, told as `kind` asks for it."""
    scheduler = DDIMScheduler(prediction_type=kind)
    weights = timestep_weights(scheduler, **gammas)
    x_0, eps = torch.randn(2, 1, 4, 4).double(), torch.randn(2, 1, 4, 4).double()
    guess = guess.double() + x_0
    a = scheduler.alphas_cumprod.double()[timestep].view(-1, 1, 1, 1)
    guessed_eps = eps + a.sqrt() * (x_0 - guess) / (1 - a).sqrt()
    v = a.sqrt() * guessed_eps - (1 - a).sqrt() * guess
    answer = {"epsilon": guessed_eps, "sample": guess, "v_prediction": v}[kind]
    return denoising_loss(Oracle(answer), scheduler, x_0, timestep, eps, weights)["denoising"]


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_min_snr_weighs_the_error_of_the_image_whatever_is_estimated(kind):
    off, timestep = torch.randn(2, 1, 4, 4), torch.tensor([700, 50])
    a = DDIMScheduler().alphas_cumprod[timestep]
    snr = (a / (1 - a)).clamp(max=5)
    assert snr[1] == 5
    assert snr[0] < 1
    want = (snr * off.square().flatten(1).mean(1)).mean()
    got = loss_of_a_guess(kind, off, timestep, min_snr_gamma=5)
    torch.testing.assert_close(got.float(), want, rtol=1e-4, atol=0)


def test_p2_makes_the_error_of_v_that_of_the_image():
    off, timestep = torch.randn(2, 1, 4, 4), torch.tensor([700, 50])
    got = loss_of_a_guess("v_prediction", off, timestep, p2_gamma=1)
    torch.testing.assert_close(got.float(), off.square().mean(), rtol=1e-4, atol=0)


def test_without_gammas_all_timesteps_weigh_alike():
    assert timestep_weights(DDIMScheduler()) is None


def test_noise_of_an_image_does_not_depend_on_the_number_of_processes():
    timestep, eps = draw_noise((8, 1, 4, 4), 1000, derived_generator(0, "noise", 5))
    again, same = draw_noise((8, 1, 4, 4), 1000, derived_generator(0, "noise", 5))
    assert torch.equal(timestep, again)
    assert torch.equal(eps.chunk(2)[1], same[4:])


def test_what_a_cpu_says_of_bf16(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags : fpu avx2 avx512f\n")
    assert cpu_has_bf16(cpuinfo) is False
    cpuinfo.write_text("flags : fpu avx2 avx512f avx512_bf16\n")
    assert cpu_has_bf16(cpuinfo) is True


def test_learning_rate_rises_and_falls():
    recipe = OptimizerRecipe(lr=1.0, warmup_steps=4, schedule="cosine")
    optimizer = build_optimizer(recipe, nn.Linear(1, 1))
    schedule = build_lr_schedule(recipe, optimizer, steps=20)
    rates = []
    for _ in range(20):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[:5] == pytest.approx([0, 0.25, 0.5, 0.75, 1.0])
    assert rates[-1] < 0.02
    assert rates.index(max(rates)) == 4


def test_curve_drops_rows_that_a_killed_run_lost(tmp_path):
    curve = LossCurve(tmp_path)
    for step in (10, 20, 30):
        curve.append(CurvePoint(step, 1.0 / step, 2.0, 1e-3, 100.0))
    assert [p.step for p in read_curve(tmp_path / "loss.csv")] == [10, 20, 30]
    again = LossCurve(tmp_path, after_step=20)
    assert [p.step for p in again.points] == [10, 20]
    assert [p.step for p in read_curve(tmp_path / "loss.csv")] == [10, 20]
    assert again.draw().read_bytes()[:4] == b"\x89PNG"


def test_run_folder_protects_what_is_there(small, tmp_path):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(UserError, match="no run to resume"):
        folder.open(small, resume=True, overwrite=False)
    folder.open(small, resume=False, overwrite=False)
    facts = json.loads(folder.environment.read_text())
    assert facts["seed"] == small.seed
    assert facts["packages"]["torch"] == torch.__version__
    with pytest.raises(UserError, match="--resume or --overwrite"):
        folder.open(small, resume=False, overwrite=False)
    folder.open(small, resume=True, overwrite=False)
    other = replace(small, model=replace(small.model, base_channels=16))
    with pytest.raises(UserError, match=r"another model: model.base_channels is 8"):
        folder.open(other, resume=True, overwrite=False)
    with pytest.raises(UserError, match="another seed"):
        folder.open(replace(small, seed=5), resume=True, overwrite=False)
    (folder.samples / "step-00000001.png").touch()
    folder.open(small, resume=False, overwrite=True)
    assert not list(folder.samples.iterdir())


def test_overwrite_spares_folders_that_are_no_run(small, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="is no run folder"):
        RunFolder(tmp_path).open(small, resume=False, overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.parametrize("name", ["nonsense", "comet_ml"])
def test_trackers_that_are_not_there_are_told(name, small, tmp_path):
    from spikediff.training.trainer import Trainer

    recipe = replace(small, training=replace(small.training, trackers=(name,)))
    with pytest.raises(UserError, match=f"training.trackers.*{name}"):
        Trainer(recipe, tmp_path / "run", show_progress=False)
    assert not (tmp_path / "run").exists()
