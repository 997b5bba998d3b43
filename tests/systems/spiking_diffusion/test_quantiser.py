"""The quantiser: nearest codes, what the gradient reaches, averages by hand, restarts."""

import pytest
import torch
from torch import distributed

from spikediff.errors import UserError
from spikediff.systems.spiking_diffusion.quantiser import (
    VectorQuantiser,
    draw_rows,
    k_means,
    perplexity,
    squared_distances,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def as_grid(rows):
    """Features [1, C, 1, N] of rows [N, C]."""
    return rows.T[None, :, None]


def averaged(codes, **options):
    """An "ema" quantiser that stands at given codes, each of weight 1."""
    quantiser = VectorQuantiser(len(codes), codes.shape[1], "ema", **options)
    quantiser.codebook.copy_(codes)
    quantiser.code_counts.fill_(1.0)
    quantiser.code_sums.copy_(codes)
    return quantiser


def test_every_feature_gets_its_nearest_code():
    quantiser, features = VectorQuantiser(32, 5), torch.randn(3, 5, 4, 6)
    out = quantiser(features)
    distances = (features[:, None] - quantiser.codebook[None, :, :, None, None]).square().sum(2)
    assert torch.equal(out.tokens, distances.argmin(1))
    assert torch.equal(out.values.movedim(1, -1), quantiser.codebook[out.tokens])


def test_the_gradient_moves_the_codes_by_one_term_and_the_features_by_the_other():
    quantiser, features = VectorQuantiser(8, 3), torch.randn(2, 3, 4, 4, requires_grad=True)
    out = quantiser(features)
    out.codebook_loss.backward()
    assert features.grad is None
    used = out.tokens.unique()
    moved = quantiser.codebook.grad.abs().sum(1) > 0
    assert moved.nonzero().flatten().tolist() == used.tolist()
    quantiser.codebook.grad = None
    quantiser(features).commitment_loss.backward()
    assert quantiser.codebook.grad is None
    assert features.grad.abs().min() > 0


def test_perplexity():
    assert perplexity(torch.zeros(2, 3, 3, dtype=torch.long), 8) == 1.0
    assert perplexity(torch.arange(8), 8).item() == pytest.approx(8.0)
    p = torch.tensor([0.75, 0.25])
    want = (-(p * p.log()).sum()).exp().item()
    assert perplexity(torch.tensor([1, 1, 4, 1]), 8).item() == pytest.approx(want)


def test_averages_by_hand():
    quantiser = averaged(torch.tensor([[0.0], [10.0], [20.0]]), decay=0.9, restart_share=0.0)
    features = as_grid(torch.tensor([[1.0], [2.0], [12.0]]))
    out = quantiser.train()(features)
    assert out.tokens.tolist() == [[[0, 0, 1]]]
    assert out.values.flatten().tolist() == [0.0, 0.0, 10.0], "by the codes before they move"
    # N = 0.9 + 0.1 n, m = 0.9 * code + 0.1 * (sum of its features)
    assert quantiser.code_counts.tolist() == pytest.approx([1.1, 1.0, 0.9])
    assert quantiser.code_sums.flatten().tolist() == pytest.approx([0.3, 10.2, 18.0])
    assert quantiser.codebook.flatten().tolist() == pytest.approx([0.3 / 1.1, 10.2, 20.0])
    assert out.codebook_loss == 0


def test_a_code_that_nothing_chooses_stays_for_ever():
    quantiser = averaged(torch.tensor([[0.0], [9.0]]), decay=0.5, restart_share=0.0).train()
    for _ in range(300):  # its weight underflows to 0
        quantiser(as_grid(torch.tensor([[1.0], [2.0]])))
    assert quantiser.code_counts[1] == 0
    assert quantiser.codebook[0].item() == pytest.approx(1.5)
    assert quantiser.codebook[1].item() == 9.0


def test_averages_find_the_clusters():
    centres = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0], [5.0, 5.0]])
    quantiser, g = VectorQuantiser(4, 2, "ema", decay=0.8).train(), generator()
    for _ in range(50):
        which = torch.randint(4, (256,), generator=g)
        rows = centres[which] + 0.3 * torch.randn(256, 2, generator=g)
        out = quantiser(as_grid(rows), g)
    assert out.perplexity > 3.9
    error = squared_distances(centres, quantiser.codebook).amin(1)
    assert error.max() < 0.05


def test_dead_codes_revive():
    """All codes but one far from the data: without restarts they stay dead."""
    codes = torch.cat([torch.zeros(1, 2), torch.full((15, 2), 100.0)])
    used = {}
    for share in (0.0, 0.03):
        quantiser, g = averaged(codes, decay=0.9, restart_share=share).train(), generator()
        for _ in range(60):
            out = quantiser(as_grid(torch.randn(256, 2, generator=g)), g)
        used[share] = len(out.tokens.unique())
    assert used == {0.0: 1, 0.03: 16}


def test_restarts_go_to_what_is_coded_badly():
    quantiser = averaged(torch.tensor([[0.0], [50.0]]), decay=0.0, restart_share=0.5).train()
    rows = torch.tensor([[0.0]] * 99 + [[7.0]])
    quantiser.codebook[0] = 0.0
    quantiser(as_grid(rows), generator())
    assert quantiser.codebook[1].item() == 7.0
    assert quantiser(as_grid(rows), generator()).tokens.flatten()[-1] == 1


@pytest.mark.parametrize("seed", [3, 4])
def test_the_generator_decides(seed):
    def trained(global_seed):
        torch.manual_seed(global_seed)
        quantiser, g = VectorQuantiser(16, 2, "ema", decay=0.5).train(), generator(seed)
        rows = torch.randn(10, 40, 2, generator=generator(9))
        for part in rows:
            quantiser(as_grid(part), g)
        return quantiser.codebook

    assert torch.equal(trained(0), trained(1))


@pytest.fixture
def group_of_one():
    """A group of processes that is this one alone."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def trained_codes():
    quantiser, g = VectorQuantiser(16, 2, "ema", decay=0.5).train(), generator(3)
    for part in torch.randn(3, 40, 2, generator=generator(9)):
        quantiser(as_grid(part), g)
    return quantiser.state_dict()


def test_a_group_of_one_process_learns_the_codes_of_a_process_alone(request):
    alone = trained_codes()
    request.getfixturevalue("group_of_one")
    shared = trained_codes()
    assert alone.keys() == shared.keys()
    assert all(torch.equal(alone[name], shared[name]) for name in alone)


def test_evaluation_changes_nothing():
    quantiser = averaged(torch.randn(4, 2)).eval()
    before = {k: v.clone() for k, v in quantiser.state_dict().items()}
    quantiser(torch.randn(1, 2, 3, 3))
    assert all(torch.equal(before[k], v) for k, v in quantiser.state_dict().items())


def test_half_precision_does_not_mistake_the_nearest():
    quantiser = VectorQuantiser(2, 1)
    quantiser.codebook.data = torch.tensor([[1.0], [1.001]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert quantiser(torch.full((1, 1, 1, 1), 1.0009)).tokens.item() == 1


def test_k_means_separates_and_survives_too_few_rows():
    rows = torch.cat([torch.randn(50, 3) * 0.1 + shift for shift in (0.0, 4.0, 8.0)])
    centres = k_means(rows, 3, generator())
    assert sorted(centres.mean(1).round().tolist()) == [0.0, 4.0, 8.0]
    assert k_means(torch.ones(2, 3), 5, generator()).tolist() == [[1.0] * 3] * 5


def test_rows_are_drawn_by_their_weights():
    drawn = draw_rows(torch.tensor([1.0, 0.0, 3.0]), 20_000, generator())
    assert drawn.bincount(minlength=3).tolist() == pytest.approx([5000, 0, 15000], abs=200)
    assert len(draw_rows(torch.zeros(4), 100, generator()).unique()) == 4


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"codebook": "emma"}, "did you mean 'ema'"),
        ({"decay": 1.0}, "decay"),
        ({"restart_share": -0.1}, "restart_share"),
    ],
)
def test_bad_options_are_told(options, word):
    with pytest.raises(UserError, match=word):
        VectorQuantiser(**options)


def test_other_channels_are_told():
    with pytest.raises(UserError, match=r"\[B, 16, h, w\]"):
        VectorQuantiser()(torch.randn(1, 8, 2, 2))
