"""Precision, recall, density and coverage, on answers that are known."""

import pytest
import torch

from spikediff.errors import UserError
from spikediff.evaluation import neighbours
from spikediff.evaluation.neighbours import PrecisionRecall, precision_recall


def blob(seed, count, centre=0.0, dimensions=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dimensions, generator=generator) + centre


def brute(real, fake, k):
    """The definitions, by all pairs of exact differences."""
    real, fake = real.double(), fake.double()

    def pairs(x, y):
        return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")

    radius_real = pairs(real, real).sort(1).values[:, k]  # the nearest is the point itself
    radius_fake = pairs(fake, fake).sort(1).values[:, k]
    in_real = pairs(fake, real) <= radius_real  # [M, N]
    in_fake = pairs(real, fake) <= radius_fake  # [N, M]
    return PrecisionRecall(
        in_real.any(1).double().mean().item(),
        in_fake.any(1).double().mean().item(),
        in_real.double().sum().item() / (k * len(fake)),
        in_real.any(0).double().mean().item(),
    )


def numbers(found):
    return (found.precision, found.recall, found.density, found.coverage)


def test_hand_computed():
    real = torch.tensor([[0.0], [1.0], [3.0]])  # radii 1, 1, 2
    fake = torch.tensor([[0.5], [4.5], [9.0]])  # radii 4, 4, 4.5
    # fake .5 lies in the balls of 0 and 1; 4.5 in that of 3; 9 in none
    # reals: all within 4 of 0.5
    found = precision_recall(real, fake, k=1)
    assert numbers(found) == pytest.approx((2 / 3, 1, 3 / 3, 1))
    back = precision_recall(fake, real, k=1)  # roles swapped: precision and recall swap
    assert (back.precision, back.recall) == pytest.approx((1, 2 / 3))
    # balls of .5: 0, 1, 3; of 4.5: 1, 3 (distances 3.5, 1.5); of 9 (reach 4.5): none (3 is 6 away)
    assert (back.density, back.coverage) == pytest.approx((5 / 3, 2 / 3))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_equals_the_definitions(k):
    real, fake = blob(0, 200), blob(1, 150, centre=0.7)
    assert numbers(precision_recall(real, fake, k)) == pytest.approx(numbers(brute(real, fake, k)))


def test_small_distances_far_from_the_origin():
    real, fake = (blob(seed, 200).double() * 1e-3 + 1000 for seed in (0, 1))
    assert numbers(precision_recall(real, fake)) == pytest.approx(numbers(brute(real, fake, 5)))


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_a_set_against_itself_keeps_its_ties(offset):
    features = blob(0, 300, dimensions=64) + offset
    found = precision_recall(features, features, k=4)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    assert found.density == pytest.approx(5 / 4)  # every ball holds its centre and its k neighbours


def test_copies_have_radius_zero_and_hold_one_another():
    features = torch.tensor([[0.0, 0.0]] * 3 + [[5.0, 5.0]] * 3)
    found = precision_recall(features, features + 1, k=2)
    assert numbers(found) == (0, 0, 0, 0)
    assert precision_recall(features, features, k=2).density == 1.5


def test_sets_apart():
    assert numbers(precision_recall(blob(0, 100), blob(1, 100, 50.0))) == (0, 0, 0, 0)


def test_a_dropped_mode_lowers_recall_and_coverage_and_nothing_else():
    real = torch.cat([blob(0, 200), blob(1, 200, 40.0)])
    both = torch.cat([blob(2, 200), blob(3, 200, 40.0)])
    whole, dropped = precision_recall(real, both), precision_recall(real, blob(2, 400))
    assert dropped.precision == pytest.approx(whole.precision, abs=0.05)
    assert dropped.density == pytest.approx(whole.density, rel=0.1)
    assert dropped.recall < 0.55 < 0.9 < whole.recall
    assert dropped.coverage < 0.55 < 0.9 < whole.coverage


def test_one_outlier_moves_coverage_of_fakes_little():
    """A real outlier's large ball flatters precision, but density hardly (Naeem et al., fig. 2)."""
    real, fake = blob(0, 500), blob(1, 500, 3.0)
    outlier = torch.cat([real, blob(2, 1, 12.0)])
    before, after = precision_recall(real, fake), precision_recall(outlier, fake)
    assert after.precision > before.precision + 0.3
    assert after.density < before.density + 0.25


def test_chunks_change_nothing(monkeypatch):
    real, fake = blob(0, 800), blob(1, 700, 0.5)
    whole = precision_recall(real, fake)
    monkeypatch.setattr(neighbours, "MEMORY_MIB", 1)  # some 160 rows at a time
    assert precision_recall(real, fake) == whole


def test_wrong_input_is_refused():
    with pytest.raises(UserError, match="k = 5 neighbours, but the sets have 9 and 5"):
        precision_recall(blob(0, 9), blob(1, 5))
    with pytest.raises(UserError, match="k = 0"):
        precision_recall(blob(0, 9), blob(1, 9), k=0)
    with pytest.raises(UserError, match="5 dimensions, the other 4"):
        precision_recall(blob(0, 9), blob(1, 9, dimensions=4))
    with pytest.raises(UserError, match="NaN"):
        precision_recall(blob(0, 9), blob(1, 9) * torch.nan)
