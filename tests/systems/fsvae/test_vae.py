"""The ordinary VAE: sizes, cost, the latent, what is random."""

import pytest
import torch

from spikediff.energy import EnergyMeter
from spikediff.errors import UserError
from spikediff.systems.fsvae.loss import gaussian_kl
from spikediff.systems.fsvae.vae import VAE

SMALL = {"sample_size": 16, "in_channels": 1, "channels": (8, 16), "latent_channels": 12}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def images(count):
    return torch.rand(count, 1, 16, 16, generator=seeded(5)) * 2 - 1


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return VAE(**SMALL).eval()


@pytest.mark.parametrize(
    ("options", "parameters", "published"),
    [
        ({"in_channels": 1}, 1_180_641, 1.13),
        ({}, 1_181_795, 1.13),
        ({"sample_size": 64, "channels": (32, 64, 128, 256, 512)}, 3_937_635, 3.76),
    ],
)
def test_published_sizes(options, parameters, published):
    """SDM's table counts in units of 2^20."""
    model = VAE(**options)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert round(parameters / 2**20, 2) == published


def test_cost_of_an_image():
    model = VAE(32, 1).eval()
    with EnergyMeter(model) as meter, torch.no_grad():
        model(torch.randn(1, 1, 32, 32))
    assert meter.report(accounting="strict", costs="45nm").macs == 10_199_040


def test_loss_terms(model):
    batch = images(4)
    out = model(batch, seeded(0))
    assert out.reconstruction.item() == pytest.approx((out.sample - batch).pow(2).mean().item())
    assert torch.equal(out.divergence, gaussian_kl(out.mean, out.log_variance))
    weight = model.config.divergence_weight
    assert weight == 1 / 240
    assert torch.equal(out.loss, out.reconstruction + weight * out.divergence)


def test_the_latent_is_mean_and_noise(model):
    with torch.no_grad():
        eps = model.draw(4, seeded(0))
        out = model(images(4), seeded(0))
        quiet = model(images(4), draws=torch.zeros(4, 12))
    torch.testing.assert_close(out.latent, out.mean + torch.exp(out.log_variance / 2) * eps)
    assert torch.equal(quiet.latent, quiet.mean)
    assert torch.equal(quiet.sample, model.decode(quiet.mean))


def test_an_image_has_the_draws_of_its_own_generator(model):
    with torch.no_grad():
        together = model(images(4), [seeded(n) for n in (1, 2, 3, 4)])
        alone = model(images(4)[2:3], [seeded(3)])
    torch.testing.assert_close(together.latent[2:3], alone.latent, atol=1e-5, rtol=1e-5)


def test_training_reaches_every_parameter():
    model = VAE(**SMALL).train()
    model(images(8), seeded(0)).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() >= 0 for p in model.parameters())
    assert model.to_log_variance.weight.grad.abs().sum() > 0


def test_it_learns():
    torch.manual_seed(0)
    model, batch = VAE(**SMALL, divergence_weight=1e-3).train(), images(8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for step in range(40):
        optimizer.zero_grad()
        losses.append(model(batch, seeded(step)).loss)
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


def test_images_depend_on_their_seeds_alone(model):
    together = model.generate(5, [seeded(n) for n in range(5)])
    for n in (4, 1):
        assert torch.equal(model.generate(1, [seeded(n)])[0], together[n])
    assert together.shape == (5, 1, 16, 16)
    assert together.abs().max() < 1
    assert not torch.equal(together[0], together[1])


def test_generation_in_training_mode_is_the_same_and_leaves_no_trace(model):
    want = model.generate(3, seeded(0))
    model.train()
    assert torch.equal(model.generate(3, seeded(0)), want)
    assert model.training
    assert model.encoder[0][1].num_batches_tracked.item() == 0
    model.eval()


def test_round_trip(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = VAE.from_pretrained(tmp_path)
    assert torch.equal(again.generate(2, seeded(0)), model.generate(2, seeded(0)))


def test_bad_input_is_told(model):
    with pytest.raises(UserError, match="VAE: sample_size=28 must be divisible by 16"):
        VAE(28)
    with pytest.raises(UserError, match=r"VAE: expects images \[B, 1, 16, 16\]"):
        model(torch.zeros(1, 3, 16, 16))
    with pytest.raises(UserError, match="3 generators for a batch of 2"):
        model.generate(2, [seeded(0)] * 3)
    with pytest.raises(UserError, match="at least 1"):
        model.generate(0)
