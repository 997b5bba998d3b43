"""FSVAE: sizes, laws of its passes, what is random and what is not."""

import pytest
import torch

from autoencoders import warm
from spikediff.energy import EnergyMeter
from spikediff.errors import UserError
from spikediff.neurons import IF, LIF, NeuronLayer, Rectangular
from spikediff.systems.fsvae.network import FSVAE, PAPER_SURROGATE, fsvae_neuron_options

SMALL = {
    "sample_size": 16,
    "in_channels": 1,
    "channels": (8, 16),
    "latent_channels": 12,
    "group_size": 5,
    "spiking_steps": 8,
}


def make(**options):
    """A small network whose norms have seen images, so that its layers fire."""
    torch.manual_seed(0)
    return warm(FSVAE(**SMALL | options), images(8))


def images(count):
    return torch.rand(count, 1, 16, 16, generator=seeded(5)) * 2 - 1


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def model():
    return make()


def neurons(model):
    return [module for module in model.modules() if isinstance(module, NeuronLayer)]


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({"in_channels": 1}, 4_053_601),
        ({}, 4_054_755),
        ({"sample_size": 64, "channels": (32, 64, 128, 256, 512)}, 6_681_571),
    ],
)
def test_published_sizes(options, parameters):
    model = FSVAE(**options)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_every_layer_fires(model):
    out = model(images(4), seeded(0))
    for train in (out.latent, out.posterior, out.prior):
        assert set(train.unique().tolist()) == {0.0, 1.0}
    assert out.latent.shape == (8, 4, 12)
    assert out.posterior.shape == out.prior.shape == (8, 4, 12, 5)
    assert out.sample.shape == (4, 1, 16, 16)
    assert out.sample.abs().max() <= 1
    assert out.sample[0].std() > 0


def test_encoding_twice_is_the_same(model):
    batch = images(4)
    with torch.no_grad():
        first, _, again = (model.encode(x) for x in (batch, -batch, batch))
    assert torch.equal(first, again)
    assert first.mean() > 0


def test_a_call_depends_on_its_generator_alone(model):
    with torch.no_grad():
        one, _, two = (model(images(4), seeded(seed)).sample for seed in (3, 4, 3))
    assert torch.equal(one, two)
    assert not torch.equal(one, _)


def test_an_image_among_others_is_what_it_is_alone():
    model = make().double()
    seeds = lambda *numbers: [seeded(n) for n in numbers]  # noqa: E731
    batch = images(4).double()
    with torch.no_grad():
        together = model(batch, seeds(1, 2, 3, 4))
        alone = model(batch[2:3], seeds(3))
    assert torch.equal(together.latent[:, 2:3], alone.latent)
    torch.testing.assert_close(together.sample[2:3], alone.sample, atol=1e-12, rtol=0)


def test_loss_terms(model):
    batch = images(4)
    out = model(batch, seeded(0))
    assert out.reconstruction.item() == pytest.approx((out.sample - batch).pow(2).mean().item())
    assert model.config.divergence_weight == 1.0
    assert torch.equal(out.loss, out.reconstruction + 1.0 * out.divergence)


def test_the_kl_has_the_weight_of_the_authors_unless_another_is_given():
    assert FSVAE(**SMALL, divergence="kl").config.divergence_weight == 1e-4
    other = FSVAE(**SMALL, divergence="kl", divergence_weight=0.5)
    out = other(images(2), seeded(0))
    assert out.loss.item() == pytest.approx((out.reconstruction + out.divergence / 2).item())


@pytest.mark.parametrize("training_draws", ["stateful", "prefixes"])
def test_training_reaches_every_parameter(training_draws):
    model = make(training_draws=training_draws).train()
    model(images(8), seeded(0), scheduled_sampling=0.5).loss.backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None]
    assert silent == []
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert model.prior.layers[0].synapse.weight.grad.abs().sum() > 0
    assert model.posterior.layers[0].synapse.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("probability", [0.0, 0.5])
def test_the_prior_follows_the_posterior_as_a_constant(probability):
    model, seen = make().train(), []
    model.prior.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0].requires_grad))
    out = model(images(8), seeded(0), scheduled_sampling=probability)
    assert out.latent.requires_grad
    assert not any(seen)


def test_a_training_step_counts_once_in_the_statistics():
    model = make().train()
    before = model.posterior.layers[0].norm.num_batches_tracked.item()
    model(images(8), seeded(0), scheduled_sampling=1.0)
    for network in (model.posterior, model.prior):
        assert network.layers[2].norm.num_batches_tracked.item() == before + 1


def test_the_prefixes_count_every_time():
    model = make(training_draws="prefixes").train()
    posterior, prior = (
        n.layers[0].norm.num_batches_tracked for n in (model.posterior, model.prior)
    )
    before = posterior.item(), prior.item()
    model(images(8), seeded(0), scheduled_sampling=1.0)
    assert posterior.item() - before[0] == 8  # T - 1 prefixes and the window
    assert prior.item() - before[1] == 2 + 1  # steps 5 and 6 of 8, and the window


def test_scheduled_sampling_is_for_training_alone(model):
    with torch.no_grad():
        plain, scheduled = (model(images(4), seeded(3), scheduled_sampling=p) for p in (0.0, 1.0))
    assert torch.equal(plain.prior, scheduled.prior)
    off, on = (make().train()(images(4), seeded(3), scheduled_sampling=p) for p in (0.0, 1.0))
    assert torch.equal(off.latent, on.latent)  # what is decoded is the posterior's
    assert not torch.equal(off.prior, on.prior)


def test_draws_can_be_made_beforehand(model):
    draws = model.draw(4, seeded(3))
    with torch.no_grad():
        assert torch.equal(model(images(4), draws=draws).sample, model(images(4), seeded(3)).sample)


def test_half_precision_by_autocast():
    model = make().train()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(images(4), seeded(0), scheduled_sampling=0.5)
    assert out.loss.dtype == torch.float32
    out.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_gradients_in_eval_mode(model):
    batch = images(2).requires_grad_()
    model(batch, seeded(0)).loss.backward()
    assert batch.grad.abs().sum() > 0
    model.zero_grad()


def test_images_depend_on_their_seeds_alone(model):
    together = model.generate(5, [seeded(n) for n in range(5)])
    for n in (4, 1):
        assert torch.equal(model.generate(1, [seeded(n)])[0], together[n])
    assert together.shape == (5, 1, 16, 16)
    assert not torch.equal(together[0], together[1])


def test_generation_in_training_mode_is_the_same_and_leaves_no_trace(model):
    want = model.generate(3, seeded(0))
    other = make().train()
    before = {k: v.clone() for k, v in other.state_dict().items()}
    assert torch.equal(other.generate(3, seeded(0)), want)
    assert other.training
    for key, tensor in other.state_dict().items():
        assert torch.equal(tensor, before[key]), key


def test_round_trip(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = FSVAE.from_pretrained(tmp_path)
    assert torch.equal(again.generate(2, seeded(0)), model.generate(2, seeded(0)))
    assert again.config.divergence_weight == 1.0


@pytest.mark.parametrize("channels", [(8,), (4, 8, 16)])
def test_other_depths(channels):
    model = FSVAE(**SMALL | {"channels": channels})
    assert model(images(2), seeded(0)).sample.shape == (2, 1, 16, 16)


def test_one_spiking_step_is_enough():
    model = FSVAE(**SMALL | {"spiking_steps": 1}).train()
    assert model(images(2), seeded(0), scheduled_sampling=0.5).loss.isfinite()
    assert model.generate(2).shape == (2, 1, 16, 16)


def test_the_released_neuron():
    dynamics = neurons(FSVAE(**SMALL))[0].dynamics
    assert (dynamics.v_threshold, dynamics.strict_threshold) == (0.2, True)
    assert neurons(FSVAE(**SMALL))[0].decay == 0.25
    membrane = torch.tensor([-0.49, 0.49, 0.51])
    assert dynamics.surrogate.derivative(membrane - 0.2).tolist() == [1.0, 1.0, 0.0]


def test_the_surrogate_of_the_paper():
    model = FSVAE(**SMALL, neuron_options={"surrogate": PAPER_SURROGATE})
    surrogate = neurons(model)[0].dynamics.surrogate
    assert surrogate == Rectangular(width=0.2, center=0.0)
    assert surrogate.derivative(torch.tensor([-0.09, 0.0, 0.11])).tolist() == [5.0, 5.0, 0.0]
    assert neurons(model)[0].dynamics.v_threshold == 0.2


def test_another_neuron():
    assert fsvae_neuron_options({"tau": 2.0}).get("decay") is None
    assert isinstance(neurons(FSVAE(**SMALL, neuron="lif", neuron_options={"tau": 2.0}))[0], LIF)
    model = FSVAE(**SMALL, neuron="if", neuron_options={"v_threshold": 0.5})
    assert isinstance(neurons(model)[0], IF)
    assert model.encoder[0].norm.v_threshold == 0.5
    assert model.prior.layers[0].norm.alpha == 2.0


def test_energy_of_an_image(model):
    """Only the first convolution multiplies; generation has none: spikes from the first step on."""
    with EnergyMeter(model, images=1) as meter:
        model.generate(1, seeded(0))
    report = meter.report(accounting="strict", costs="45nm")
    assert report.macs == 0
    assert report.acs > 0
    with EnergyMeter(model) as meter, torch.no_grad():
        model(images(1), seeded(0))
    assert meter.report(accounting="strict", costs="45nm").macs == 8 * 8 * 8 * 9


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"sample_size": 18}, "divisible by 4"),
        ({"channels": ()}, "must not be empty"),
        ({"channels": (8, 0)}, "channels=.* at least 1"),
        ({"latent_channels": 0}, "latent_channels=0 must be at least 1"),
        ({"spiking_steps": 0}, "at least 1"),
        ({"group_size": 0}, "at least 1"),
        ({"neuron": "lfi"}, "did you mean 'lif'"),
        ({"neuron_options": {"taw": 2.0}}, "do not fit neuron"),
        ({"neuron_options": {"v_threshold": "high"}}, "v_threshold"),
        ({"neuron_options": {"v_threshold": None}}, "v_threshold"),
        ({"sample_size": (16, 16)}, r"sample_size=\(16, 16\) must be a whole number"),
        ({"sample_size": 16.0}, r"sample_size=16\.0 must be a whole number"),
        ({"divergence_weight": -1.0}, r"divergence_weight = -1\.0 must not be negative"),
        ({"training_draws": "prefix"}, "did you mean 'prefixes'"),
        ({"divergence": "mdm"}, "did you mean 'mmd'"),
    ],
)
def test_bad_sizes_are_told(options, word):
    with pytest.raises(UserError, match=word):
        FSVAE(**SMALL | options)


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (2, 1, 16, 8), (1, 16, 16), (2, 1, 28, 28)])
def test_bad_images_are_told(model, shape):
    with pytest.raises(UserError, match=r"expects images \[B, 1, 16, 16\], got"):
        model(torch.zeros(shape))


def test_bad_calls_are_told(model):
    with pytest.raises(UserError, match="scheduled_sampling"):
        model(images(2), scheduled_sampling=1.5)
    with pytest.raises(UserError, match="no coins"):
        make().train()(images(2), draws=model.draw(2, seeded(0)), scheduled_sampling=0.5)
    with pytest.raises(UserError, match="1 generators for a batch of 2"):
        model(images(2), [seeded(0)])
    with pytest.raises(UserError, match="at least 1"):
        model.generate(0)
