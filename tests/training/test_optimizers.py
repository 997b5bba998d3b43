"""The running average of a network, and the learning rate."""

import pytest
import torch
from torch import nn

from spikediff.training.build import build_lr_schedule, build_optimizer
from spikediff.training.optimizers import averaged, decay_at
from spikediff.training.recipe import EMARecipe, OptimizerRecipe


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


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("overflows", [False, True])
def test_muon_takes_unscaled_gradients_and_skips_those_that_overflow(layout, overflows):
    """A scaler of fp16 gradients sees the kernels, not only what AdamW trains."""
    torch.manual_seed(0)
    images, scale = torch.randn(4, 2, 6, 6), 1024.0
    kernels = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=scale)):
        torch.manual_seed(1)
        model = nn.Conv2d(2, 3, 3).to(memory_format=layout)
        before = model.weight.detach().clone()
        optimizer = build_optimizer(OptimizerRecipe(name="muon", lr=0.1), model)
        for part in images.chunk(2):
            loss = model(part).square().sum()
            (loss if scaler is None else scaler.scale(loss)).backward()
        if scaler is None:
            norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        else:
            if overflows:
                model.weight.grad[0, 0, 0, 0] = torch.inf
            scaler.unscale_(optimizer)
            if not overflows:
                assert nn.utils.clip_grad_norm_(model.parameters(), 1.0) == norm
            scaler.step(optimizer)
        kernels.append(model.weight.detach())
    assert not torch.equal(kernels[0], before)
    assert torch.equal(kernels[1], before if overflows else kernels[0])
