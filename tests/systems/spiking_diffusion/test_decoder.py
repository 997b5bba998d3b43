"""The spiking image decoder: sizes, inputs, independence of calls, learning."""

import pytest
import torch

from norms import see
from spikediff.energy import EnergyMeter
from spikediff.errors import UserError
from spikediff.systems.spiking_diffusion.absorbing import absorbing_loss
from spikediff.systems.spiking_diffusion.decoder import SpikingImageDecoder

TINY = {"codebook_size": 8, "widths": (16, 24, 12), "spiking_steps": 4}


def small(**options):
    torch.manual_seed(0)
    return see(SpikingImageDecoder(**{**TINY, **options}), grids(16), 3)


def grids(batch=5, height=7, width=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(9, (batch, height, width), generator=generator)


def test_parameters_of_the_published_configuration():
    assert SpikingImageDecoder(input="raw").num_parameters() == 3_101_504
    embedded = SpikingImageDecoder().num_parameters()
    assert embedded - 3_101_504 == 129 * 64 + (64 - 2) * 64 * 9


@pytest.mark.parametrize("source", ["raw", "embedding"])
@pytest.mark.parametrize("size", [(7, 7), (6, 10), (1, 3)])
def test_a_grid_of_any_size(source, size):
    model = small(input=source)
    logits = model(grids(2, *size), torch.tensor([1, 3])).sample
    assert logits.shape == (2, 8, *size)


@pytest.mark.parametrize("source", ["raw", "embedding"])
def test_calls_and_grids_are_independent(source):
    model, tokens = small(input=source), grids()
    with torch.no_grad():
        first = model(tokens, 3).sample
        model(grids(3, 4, 4), 40)
        assert torch.equal(model(tokens, 3).sample, first)
        alone = torch.cat([model(one[None], 3).sample for one in tokens])
    torch.testing.assert_close(alone, first, atol=1e-5, rtol=0)
    assert first.std() > 0


def test_only_the_raw_input_asks_for_the_time():
    raw, embedded, tokens = small(input="raw"), small(), grids()
    with torch.no_grad():
        assert torch.equal(embedded(tokens).sample, embedded(tokens, 7).sample)
        assert not torch.equal(raw(tokens, 1).sample, raw(tokens, 49).sample)
        per_grid = raw(tokens, torch.full((5,), 7)).sample
        assert torch.equal(raw(tokens, 7).sample, per_grid)
    with pytest.raises(UserError, match="needs a timestep"):
        raw(tokens)


def test_an_embedding_does_not_care_for_the_order_of_the_codebook():
    model, tokens = small(), grids()
    order = torch.cat([torch.randperm(8), torch.tensor([8])])
    with torch.no_grad():
        before = model(tokens).sample
        model.embedding.weight.copy_(model.embedding.weight[order])
        shuffled = order.argsort()[tokens]
        assert torch.equal(model(shuffled).sample, before)


@pytest.mark.slow
def test_it_learns_what_stands_behind_the_masks():
    """Grids of one code each: any token that is left tells all the others."""
    torch.manual_seed(0)
    model, generator = SpikingImageDecoder(**TINY).train(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(80):
        tokens = torch.randint(8, (32, 1, 1), generator=generator).expand(32, 4, 4)
        masked = torch.rand(tokens.shape, generator=generator) < 0.4
        logits = model(tokens.masked_fill(masked, 8)).sample
        loss = absorbing_loss(logits, tokens, masked, torch.full((32,), 6), 16, "elbo")
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    hits = (logits.argmax(1) == tokens)[masked].float().mean()
    assert hits > 0.9


def test_round_trip(tmp_path):
    model = small()
    model.save_pretrained(tmp_path)
    again = SpikingImageDecoder.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(grids()).sample, model(grids()).sample)
    assert again.mask_token == 8


@pytest.mark.parametrize("source", ["raw", "embedding"])
def test_the_energy_meter_knows_all_of_it(source):
    # With few codes the meter would take their numbers for spikes of several levels.
    model = small(input=source, codebook_size=128)
    with EnergyMeter(model) as meter, torch.no_grad():
        model(grids() * 16, timestep=3)
    report = meter.report()
    assert report.acs > 0
    real = {row.layer for row in report.layers if row.macs}
    assert real == {"layers.0.synapse"}, "all but the first convolution sees spikes"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"widths": ()}, "widths=.* must not be empty"),
        ({"widths": (4, 0)}, "at least 1"),
        ({"codebook_size": 0}, "at least 1"),
        ({"spiking_steps": 0}, "at least 1"),
        ({"input": "embeddings"}, "did you mean 'embedding'"),
        ({"input": "raw", "num_classes": 2}, 'num_classes needs input="embedding"'),
        ({"neuron": "lif2"}, "SpikingImageDecoder: unknown neuron"),
    ],
)
def test_bad_configurations_are_told(options, word):
    with pytest.raises(UserError, match=word):
        SpikingImageDecoder(**{**TINY, **options})


def test_bad_tokens_are_told():
    for tokens in (torch.zeros(1, 7, 7), grids()[:, None]):
        with pytest.raises(UserError, match=r"tokens \[B, h, w\]"):
            small()(tokens)
    for outside in (-1, TINY["codebook_size"] + 1):
        with pytest.raises(UserError, match=r"tokens must lie between 0 and \d+ \(MASK\), not"):
            small()(torch.full((1, 7, 7), outside))
