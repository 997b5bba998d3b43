"""The spiking autoencoder: sizes, independence of calls, gradients of either kind, round trip."""

import pytest
import torch

from norms import see
from spikediff.energy import EnergyMeter
from spikediff.errors import UserError
from spikediff.systems.spiking_diffusion.vq_svae import VQSVAE, vq_svae_terms

SMALL = {"sample_size": 8, "widths": (8,), "codebook_size": 16, "spiking_steps": 4}
TINY = {**SMALL, "embedding_channels": 4}


def small(**options):
    torch.manual_seed(0)
    return VQSVAE(**{**TINY, **options})


def images(batch=6, channels=1, size=8):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(batch, channels, size, size, generator=generator) - 0.5


def warmed(**options):
    """A model whose neurons fire: running statistics, and gains above 1."""
    model = small(**options)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.constant_(module.weight, 3.0)
    return see(model, images(channels=model.config.in_channels))


def test_parameters_of_the_published_configuration():
    assert VQSVAE().num_parameters() == 50_658
    averaged = VQSVAE(codebook="ema").num_parameters()
    assert averaged == 50_658 - 128 * 16, "an averaged codebook is no parameter"
    model = VQSVAE()
    parts = [model.encoder, model.spike_generator, model.decoder]
    assert [sum(p.numel() for p in part.parameters()) for part in parts] == [20_080, 304, 28_225]


@pytest.mark.parametrize("widths", [(8,), (8, 12), (4, 8, 12)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size(widths, channels):
    model = VQSVAE(
        sample_size=(24, 16),
        in_channels=channels,
        widths=widths,
        codebook_size=5,
        embedding_channels=3,
        spiking_steps=2,
    )
    x = torch.rand(2, channels, 24, 16) - 0.5
    output = model(x)
    factor = 2 ** len(widths)
    assert model.latent_size == (24 // factor, 16 // factor)
    assert output.tokens.shape == (2, *model.latent_size)
    assert output.sample.shape == x.shape
    other = torch.rand(1, channels, 2 * factor, 3 * factor) - 0.5
    assert model.decode(model.encode(other)).shape == other.shape


@pytest.mark.parametrize("options", [{}, {"feature": "paper"}, {"codebook": "ema"}])
def test_encoding_depends_on_the_images_alone(options):
    """The released code extracts tokens without resetting its neurons between batches."""
    model, x = warmed(**options), images()
    with torch.no_grad():
        first = model.encode(x)
        assert len(first.unique()) > 2
        model.encode(torch.rand(3, 1, 16, 16) - 0.5)
        model(images(5))
        assert torch.equal(model.encode(x), first)
        assert torch.equal(torch.cat([model.encode(one[None]) for one in x]), first)
        assert torch.equal(model(x).tokens, first)
        assert torch.equal(model.decode(first), model.decode(first))


def test_reconstruction_in_evaluation_is_decode_of_encode():
    for straight_through in ("dense", "spike"):
        model, x = warmed(straight_through=straight_through), images()
        with torch.no_grad():
            assert torch.equal(model(x).sample, model.decode(model.encode(x)))


def gradients_of(model, loss):
    model.zero_grad()
    loss.backward()
    return {
        name: sum(float(p.grad.abs().sum()) for p in part.parameters() if p.grad is not None)
        for name, part in model.named_children()
    }


def test_where_the_reconstruction_reaches():
    """Dense: through the generator. Spike: past it and past the feature, which it leaves alone."""
    for straight_through, passed in (("dense", True), ("spike", False)):
        model = warmed(straight_through=straight_through).train()
        got = gradients_of(model, model(images()).reconstruction_loss)
        assert got["decoder"] > 0
        assert got["encoder"] > 0
        assert (got["spike_generator"] > 0) == passed
        assert (got["spike_feature"] > 0) == passed
        assert got["quantiser"] == 0


def test_where_the_other_terms_reach():
    model = warmed().train()
    for term, reached in {
        "codebook_loss": {"quantiser"},
        "commitment_loss": {"encoder", "spike_feature"},
        "spike_loss": {"spike_generator", "encoder", "spike_feature"},
        "spike_commitment_loss": {"encoder"},
    }.items():
        got = gradients_of(model, model(images())[term])
        assert {name for name, size in got.items() if size > 0} == reached, term


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"feature": "paper", "straight_through": "spike"}, {"codebook": "ema"}],
)
def test_it_learns(options):
    model, x = small(**options).train(), images(16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator, losses = torch.Generator().manual_seed(0), []
    for _ in range(60):
        output = model(x, generator)
        sum(vq_svae_terms(output, x.var()).values()).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(output.reconstruction_loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert output.perplexity > (3.0 if options.get("codebook") == "ema" else 1.5)


def test_a_training_step_of_an_averaged_codebook_is_the_generators():
    def trained():
        model = small(codebook="ema").train()
        generator = torch.Generator().manual_seed(3)
        torch.seed()  # the global state must not matter
        for _ in range(3):
            model(images(), generator)
        return model.quantiser.codebook

    assert torch.equal(trained(), trained())


def test_the_paper_bounds_the_feature():
    paper, released = small(feature="paper"), small()
    spikes = torch.ones(4, 1, 4, 4, 4)
    for value in (-50.0, 0.0, 50.0):
        for model in (paper, released):
            model.spike_feature.mixture.data.fill_(value)
        assert 0.0 <= paper.spike_feature(spikes).min() <= paper.spike_feature(spikes).max() <= 1.0
        assert (released.spike_feature(spikes).abs() > 1.0).any() or value == 50.0


def test_round_trip(tmp_path):
    model = warmed(feature="paper", codebook="ema", input_range=(0.0, 1.0))
    model.save_pretrained(tmp_path)
    again = VQSVAE.from_pretrained(tmp_path)
    assert tuple(again.config.input_range) == (0.0, 1.0)
    with torch.no_grad():
        assert torch.equal(again.eval()(images()).sample, model(images()).sample)


def test_return_a_tuple():
    output = small()(images(), return_dict=False)
    assert output[0].shape == (6, 1, 8, 8)


@pytest.mark.parametrize("options", [{}, {"feature": "paper"}, {"codebook": "ema"}])
def test_the_energy_meter_knows_all_of_it(options):
    model = warmed(**options)
    with EnergyMeter(model) as meter, torch.no_grad():
        model(images())
    report = meter.report()
    assert report.acs > 0
    names = {row.layer for row in report.layers if row.macs or row.acs}
    assert {"encoder.layers.0.synapse", "quantiser", "spike_generator.layer.synapse"} <= names


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"sample_size": 9}, "divisible by 2"),
        ({"sample_size": (8, 9)}, "divisible by 2"),
        ({"widths": ()}, "widths=.* must not be empty"),
        ({"widths": (0,)}, "at least 1"),
        ({"spiking_steps": 0}, "at least 1"),
        ({"codebook_size": 0}, "at least 1"),
        ({"embedding_channels": -1}, "embedding_channels=-1 must be at least 1"),
        ({"feature": "papers"}, "did you mean 'paper'"),
        ({"straight_through": "spikes"}, "did you mean 'spike'"),
        ({"codebook": "grad"}, "unknown codebook 'grad'"),
        ({"neuron": "lif2"}, "VQSVAE: unknown neuron"),
        ({"neuron_options": {"tao": 2.0}}, "do not fit neuron 'lif'"),
        ({"tau_syn": 0.5}, "tau_syn"),
        ({"readout_decay": 1.5}, "readout_decay"),
        ({"input_range": (0.5, -0.5)}, "input_range"),
        ({"input_range": (0.0, 255.0)}, "input_range"),
        ({"input_range": (0.0,)}, r"input_range=\(0.0,\) must be two numbers"),
    ],
)
def test_bad_configurations_are_told(options, word):
    with pytest.raises(UserError, match=word):
        small(**options)


def test_bad_inputs_are_told():
    model = small()
    with pytest.raises(UserError, match="in_channels=1"):
        model.encode(torch.zeros(1, 3, 8, 8))
    with pytest.raises(UserError, match="not divisible by 2"):
        model(torch.zeros(1, 1, 8, 7))
    with pytest.raises(UserError, match="MASK is not finished"):
        model.decode(torch.full((1, 4, 4), 16))
    with pytest.raises(UserError, match=r"tokens \[B, h, w\]"):
        model.decode(torch.zeros(1, 4, 4))
    with pytest.raises(UserError, match="data_variance"):
        vq_svae_terms(model(images()), data_variance=torch.zeros(8).var())
