"""Laws of the absorbing state: how many masks at any time, exact jumps, loss, draws."""

import itertools
import math

import pytest
import torch

from spikediff.errors import UserError
from spikediff.systems.spiking_diffusion.absorbing import (
    LOSS_WEIGHTS,
    AbsorbingStateScheduler,
    absorbing_loss,
    draw_tokens,
    keep_nucleus,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make(steps=None, num_train_timesteps=49, mask_token=8, **options):
    scheduler = AbsorbingStateScheduler(num_train_timesteps, mask_token, **options)
    scheduler.set_timesteps(steps or num_train_timesteps)
    return scheduler


def run(scheduler, network, batch, shape=(7, 7), **options):
    grid = torch.full((batch, *shape), scheduler.config.mask_token)
    grids = [grid]
    for t in scheduler.timesteps:
        grids.append(scheduler.step(network(grids[-1]), t, grids[-1], **options).prev_sample)
    return grids


def flat(grid, codes=8):
    """A network that knows nothing."""
    return torch.zeros(len(grid), codes, *grid.shape[1:])


def test_cumulated_steps_mask_by_t_over_t_d():
    kept = 1.0
    for t in range(1, 50):
        kept *= 1 - 1 / (49 - t + 1)  # 1 - gamma_t, the paper's equation 12
        assert 1 - kept == pytest.approx(t / 49)


def test_add_noise_masks_by_t_over_t_d():
    scheduler, tokens = make(), torch.randint(8, (400, 7, 7), generator=generator())
    uniforms = torch.rand(tokens.shape, generator=generator(1))
    for t in (1, 12, 30, 48):
        noisy = scheduler.add_noise(tokens, uniforms, torch.full((400,), t))
        masked = noisy == 8
        assert masked.float().mean().item() == pytest.approx(t / 49, abs=0.01)
        assert torch.equal(noisy[~masked], tokens[~masked])
    assert (scheduler.add_noise(tokens, uniforms, torch.full((400,), 49)) == 8).all()


def test_add_noise_takes_a_time_per_grid():
    tokens, times = torch.zeros(3, 100, 100, dtype=torch.long), torch.tensor([0, 10, 49])
    noisy = make().add_noise(tokens, torch.rand(tokens.shape, generator=generator()), times)
    shares = (noisy == 8).float().mean((1, 2)).tolist()
    assert shares == pytest.approx([0.0, 10 / 49, 1.0], abs=0.02)


def test_a_jump_is_the_product_of_its_steps():
    for t, s in itertools.combinations(range(49, -1, -1), 2):
        still = math.prod(1 - 1 / r for r in range(t, s, -1))
        assert s / t == pytest.approx(still, abs=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 7, 10, 49])
def test_any_number_of_steps_leaves_the_right_number_of_masks(steps):
    scheduler = make(steps)
    grids = run(scheduler, flat, 300, generator=generator(steps))
    times = [*scheduler.timesteps.tolist(), 0]
    assert len(times) == steps + 1
    assert times[0] == 49
    assert times == sorted(set(times), reverse=True)
    for t, grid in zip(times, grids, strict=True):
        assert (grid == 8).float().mean().item() == pytest.approx(t / 49, abs=0.02)
    assert grids[-1].max() < 8


def distribution(times, alone, beside):
    """p(grid at time 0) of two positions when the network is asked at these times, enumerated.

    `alone` is its p of a token while the other one is masked, `beside[v]` once that one is v.
    """
    states = {(2, 2): 1.0}
    for t, s in itertools.pairwise([*times, 0]):
        p, after = (t - s) / t, {}
        for grid, mass in states.items():
            options = []
            for token, other in (grid, grid[::-1]):
                q = alone if other == 2 else beside[other]
                reveal = [(v, p * q[v].item()) for v in (0, 1)] + [(2, 1 - p)]
                options.append(reveal if token == 2 else [(token, 1.0)])
            for (a, pa), (b, pb) in itertools.product(*options):
                after[a, b] = after.get((a, b), 0.0) + mass * pa * pb
        states = {grid: mass for grid, mass in after.items() if mass > 0}
    return states


ALONE = torch.tensor([0.7, 0.3])
BESIDE = torch.tensor([[0.9, 0.1], [0.2, 0.8]])


def test_one_jump_has_the_distribution_of_single_steps():
    """As long as the network's answer stays the same, skipping its calls changes nothing."""
    single = distribution(range(6, 0, -1), ALONE, [ALONE, ALONE])
    for times in ([6], [6, 3], [6, 5, 1]):
        assert distribution(times, ALONE, [ALONE, ALONE]) == pytest.approx(single)
    once, often = (distribution(t, ALONE, BESIDE) for t in ([6], range(6, 0, -1)))
    assert abs(once[0, 0] - often[0, 0]) > 0.05, "where its answer changes, calls are worth it"


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_the_steps_have_the_enumerated_distribution(steps):
    scheduler = make(steps, num_train_timesteps=6, mask_token=2)

    def network(grid):
        others = grid.flatten(1).flip(1).T  # [2, B]
        known = [torch.where(o[:, None] == 2, ALONE, BESIDE[o.clamp(max=1)]) for o in others]
        return torch.stack(known, dim=2)[:, :, None].log()  # [B, K, 1, 2]

    samples = run(scheduler, network, 40_000, (1, 2), generator=generator(5))[-1].flatten(1)
    want = distribution(scheduler.timesteps.tolist(), ALONE, BESIDE)
    assert sum(want.values()) == pytest.approx(1.0)
    for grid, mass in want.items():
        share = (samples == torch.tensor(grid)).all(1).float().mean().item()
        assert share == pytest.approx(mass, abs=0.01), grid


@pytest.mark.parametrize("unmasking", ["ancestral", "confidence"])
def test_known_tokens_never_change(unmasking):
    scheduler = make(10)
    grid = torch.full((5, 7, 7), 8)
    grid[:, 2:4] = torch.arange(14).view(2, 7) % 8
    known = grid != 8
    for t in scheduler.timesteps:
        after = scheduler.step(
            flat(grid), t, grid, unmasking=unmasking, generator=generator(int(t))
        ).prev_sample
        assert torch.equal(after[grid != 8], grid[grid != 8])
        grid = after
    assert (grid < 8).all()
    assert torch.equal(grid[known][:7], torch.arange(7))


@pytest.mark.parametrize("steps", [1, 5, 49])
def test_confidence_unmasks_the_surest_on_schedule(steps):
    scheduler = make(steps, confidence_noise=0.0)
    sureness = torch.rand(3, 7, 7, generator=generator())
    logits = torch.zeros(3, 8, 7, 7)
    logits[:, 5] = 1.0 + 10 * sureness
    grids = run(scheduler, lambda _: logits, 3, unmasking="confidence", temperature=0.0)
    for t, grid in zip([*scheduler.timesteps.tolist(), 0], grids, strict=True):
        masked = grid == 8
        assert masked.sum((1, 2)).tolist() == [t] * 3
        if 0 < t < 49:
            assert sureness[0][masked[0]].max() < sureness[0][~masked[0]].min()


def test_confidence_unmasks_as_many_as_ancestral_on_average():
    """Few masks, many steps: most steps unmask none; the last leaves none."""
    scheduler, g = make(num_train_timesteps=16, mask_token=2), generator()
    grid = torch.zeros(1000, 4, 4, dtype=torch.long)
    grid[:, 0] = 2
    for t in scheduler.timesteps.tolist():
        masked = grid == 2
        assert masked.sum().item() / 1000 == pytest.approx(4 * t / 16, abs=0.1)
        step = scheduler.step(flat(grid, 2), t, grid, unmasking="confidence", generator=g)
        grid = step.prev_sample
        assert (masked | (grid != 2)).all()
    assert (grid < 2).all()


@pytest.mark.parametrize("unmasking", ["ancestral", "confidence"])
def test_an_image_depends_on_its_generator_alone(unmasking):
    def sample(seeds):
        logits = torch.randn(8, 1, 1, generator=generator(99)).expand(len(seeds), 8, 7, 7)
        generators = [generator(seed) for seed in seeds]
        return run(
            make(9), lambda _: logits, len(seeds), generator=generators, unmasking=unmasking
        )[-1]

    together = sample(range(6))
    for batch in ([3], [5, 0], [2, 3, 4]):
        for seed, grid in zip(batch, sample(batch), strict=True):
            assert torch.equal(grid, together[seed])
    assert not torch.equal(together[0], together[1])


def test_tokens_follow_the_distribution_and_temperature_sharpens_it():
    p = torch.tensor([0.5, 0.3, 0.2])
    logits = p.log().view(1, 3, 1, 1).expand(1, 3, 100, 100)
    exponentials = torch.empty(1, 3, 100, 100).exponential_(generator=generator())

    def shares(**options):
        tokens, scores = draw_tokens(logits, exponentials, **options)
        assert torch.equal(scores, draw_tokens(logits, exponentials, **options)[1])
        return (tokens.flatten().bincount(minlength=3) / 10_000).tolist(), scores.exp().unique()

    assert shares()[0] == pytest.approx([0.5, 0.3, 0.2], abs=0.02)
    assert shares()[1].tolist() == pytest.approx([0.2, 0.3, 0.5])
    sharp = p.square() / p.square().sum()
    assert shares(temperature=0.5)[0] == pytest.approx(sharp.tolist(), abs=0.02)
    assert shares(temperature=0.0)[0] == [1.0, 0.0, 0.0]
    assert shares(top_p=0.6)[0] == pytest.approx([0.625, 0.375, 0.0], abs=0.02)
    assert shares(top_p=0.4)[0] == [1.0, 0.0, 0.0]


def test_the_nucleus_is_never_empty():
    logits = torch.randn(4, 9, 2, 2)
    for top_p in (1e-6, 0.3, 0.9, 1.0):
        kept = keep_nucleus(logits, top_p).isfinite()
        assert (kept.sum(1) >= 1).all()
        mass = (logits.softmax(1) * kept).sum(1)
        assert (mass >= top_p - 1e-6).all()


def test_loss_by_hand():
    logits = torch.randn(2, 5, 1, 4, dtype=torch.float64)
    tokens = torch.tensor([[[0, 1, 2, 3]], [[4, 4, 4, 4]]])
    masked = torch.tensor([[[True, False, False, True]], [[False, True, False, False]]])
    log_p = logits.log_softmax(1)
    ce = torch.stack([-(log_p[0, 0, 0, 0] + log_p[0, 3, 0, 3]), -log_p[1, 4, 0, 1]])
    t, bits = torch.tensor([3, 2]), 4 * math.log(2)
    weights = {"elbo": [4 / 3, 4 / 2], "reweighted": [2 / 4, 3 / 4], "released": [1 / 4, 2 / 4]}
    assert set(weights) == set(LOSS_WEIGHTS)
    for name, weight in weights.items():
        want = (torch.tensor(weight, dtype=torch.float64) * ce).mean() / bits
        torch.testing.assert_close(absorbing_loss(logits, tokens, masked, t, 4, name), want)


def test_only_the_released_weight_leaves_the_start_untrained():
    logits = torch.randn(1, 5, 7, 7, requires_grad=True)
    tokens, masked = torch.ones(1, 7, 7, dtype=torch.long), torch.ones(1, 7, 7, dtype=torch.bool)
    trained = {
        name: absorbing_loss(logits, tokens, masked, torch.tensor([49]), 49, name).item() > 0
        for name in LOSS_WEIGHTS
    }
    assert trained == {"elbo": True, "reweighted": True, "released": False}


def test_the_bound_of_a_uniform_network_is_its_entropy():
    """E_t of the ELBO over all t is log2 K bits a token, because masks come by t / T_d."""
    bits = [49 / t * (t / 49 * 49) * math.log(8) / (49 * math.log(2)) for t in range(1, 50)]
    assert sum(bits) / 49 == pytest.approx(3.0)
    scheduler, g = make(), generator()
    tokens, t = torch.zeros(4900, 7, 7, dtype=torch.long), torch.arange(1, 50).repeat(100)
    masked = scheduler.add_noise(tokens, torch.rand(tokens.shape, generator=g), t) == 8
    loss = absorbing_loss(torch.zeros(4900, 8, 7, 7), tokens, masked, t, 49, "elbo")
    assert loss.item() == pytest.approx(3.0, abs=0.03)


def test_round_trip(tmp_path):
    make(mask_token=16, confidence_noise=2.0).save_pretrained(tmp_path)
    again = AbsorbingStateScheduler.from_pretrained(tmp_path)
    assert again.config.mask_token == 16
    assert again.config.confidence_noise == 2.0


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"unmasking": "confident"}, "did you mean 'confidence'"),
        ({"generator": [torch.Generator()]}, "1 generators for a batch of 2"),
    ],
)
def test_bad_options_of_a_step(options, word):
    grid = torch.full((2, 7, 7), 8)
    with pytest.raises(UserError, match=word):
        make().step(flat(grid), 49, grid, **options)


def test_bad_sizes_are_told():
    grid = torch.full((2, 7, 7), 8)
    with pytest.raises(UserError, match="do not fit a grid"):
        make().step(flat(grid, codes=9), 49, grid)
    for steps in (0, 50):
        with pytest.raises(UserError, match="between 1 and 49"):
            make().set_timesteps(steps)
    with pytest.raises(UserError, match="mask_token"):
        AbsorbingStateScheduler(mask_token=0)
    masked = torch.ones(2, 7, 7, dtype=torch.bool)
    with pytest.raises(UserError, match="do not fit"):
        absorbing_loss(flat(grid), grid[0], masked, torch.tensor([1, 2]), 49)
    with pytest.raises(UserError, match="did you mean 'reweighted'"):
        absorbing_loss(flat(grid), grid * 0, masked, torch.tensor([1, 2]), 49, "reweigthed")
