"""Norms: statistics follow training only, and threshold-dependent batch norm has its equation."""

import copy

import pytest
import torch
from diffusers import DDIMPipeline, DDPMPipeline, DDPMScheduler
from torch import nn

from sizes import U_NET
from spikediff.layers import ThresholdNorm
from spikediff.layers.norm import BatchNorm1d, BatchNorm2d
from spikediff.systems.sddpm.network import SpikingUNet
from spikediff.systems.spiking_diffusion.quantiser import VectorQuantiser

NORMS = {
    "1d": (lambda: BatchNorm1d(3), nn.BatchNorm1d(3), (8, 3, 5)),
    "2d": (lambda: BatchNorm2d(3), nn.BatchNorm2d(3), (8, 3, 5, 5)),
    "threshold": (lambda: ThresholdNorm(3), nn.BatchNorm2d(3), (8, 3, 5, 5)),
}


def state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def unchanged(module, before):
    return all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("kind", NORMS)
def test_without_gradients_nothing_is_learnt(kind, off):
    make, theirs, shape = NORMS[kind]
    norm, x = make(), torch.randn(shape) * 3 + 1
    before = state(norm)
    with off():
        out = norm(x)
    assert unchanged(norm, before)
    torch.testing.assert_close(out, copy.deepcopy(theirs)(x), msg="by the batch's statistics")


@pytest.mark.parametrize("kind", NORMS)
def test_with_gradients_it_is_torch_s(kind):
    make, theirs, shape = NORMS[kind]
    norm, theirs, x = make(), copy.deepcopy(theirs), torch.randn(shape) * 3 + 1
    assert torch.equal(norm(x), theirs(x))
    assert state(norm).keys() == state(theirs).keys()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, norm.state_dict()[name])
    assert torch.equal(norm.eval()(x), theirs.eval()(x))


def test_an_averaged_codebook_stands_still_without_gradients():
    quantiser = VectorQuantiser(8, 3, codebook="ema")
    features = torch.randn(4, 3, 5, 5)
    quantiser(features)
    before = state(quantiser)
    with torch.no_grad():
        quantiser(torch.randn(4, 3, 5, 5))
    assert unchanged(quantiser, before)
    quantiser(features + 1)
    assert not unchanged(quantiser, before)


@pytest.mark.parametrize("pipeline", [DDPMPipeline, DDIMPipeline])
def test_diffusers_pipelines_in_a_training_loop_spoil_no_network(pipeline):
    """As in diffusers' tutorial, which never calls `.eval()`."""
    unet = SpikingUNet(**U_NET)
    assert unet.training
    unet(torch.randn(4, 1, 8, 8), 10).sample.mean().backward()
    before = state(unet)
    pipe = pipeline(unet=unet, scheduler=DDPMScheduler(num_train_timesteps=10))
    pipe.set_progress_bar_config(disable=True)
    pipe(batch_size=2, num_inference_steps=2, output_type="np")
    assert unet.training
    assert unchanged(unet, before)
    unet(torch.randn(4, 1, 8, 8), 10)
    assert not unchanged(unet, before)


def test_is_batch_norm_with_a_scaled_gain():
    torch.manual_seed(0)
    x, ours, theirs = torch.randn(6, 3, 4, 4), ThresholdNorm(3, 0.5, 0.4), nn.BatchNorm2d(3)
    for norm in (ours, theirs):
        norm.weight.data = torch.tensor([1.0, 2.0, -1.0])
        norm.bias.data = torch.tensor([0.1, 0.0, 0.3])
    for _ in range(3):  # training moves the running statistics alike
        want = 0.5 * 0.4 * (theirs(x) - theirs.bias.view(-1, 1, 1)) + theirs.bias.view(-1, 1, 1)
        torch.testing.assert_close(ours(x), want)
    for name, buffer in theirs.named_buffers():
        assert torch.equal(ours.get_buffer(name), buffer), name
    want = 0.2 * (theirs.eval()(x) - theirs.bias.view(-1, 1, 1)) + theirs.bias.view(-1, 1, 1)
    torch.testing.assert_close(ours.eval()(x), want)


def test_currents_have_the_size_of_the_threshold():
    x = 7 * torch.randn(2000, 2, 1, 1) + 3
    y = ThresholdNorm(2, v_threshold=0.2)(x)
    torch.testing.assert_close(y.std((0, 2, 3), unbiased=False), torch.full((2,), 0.2))
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(2), atol=1e-6, rtol=0)


def test_takes_vectors_too():
    assert ThresholdNorm(3)(torch.randn(5, 3)).shape == (5, 3)
