"""Convolutions of counts: the C kernels give the bits of plain torch, whatever the sizes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikediff.errors import UserError
from spikediff.systems.integer import convolution
from spikediff.systems.integer.convolution import change_conv2d, count_conv2d, event_conv2d


@st.composite
def cases(draw):
    """Counts of two calls, weights, stride and padding."""
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    kernel, images = draw(st.sampled_from([1, 3, 3, 5])), draw(st.sampled_from([0, 1, 2, 5]))
    sizes = [draw(st.sampled_from([1, 3, 4, 17, 50, 70])) for _ in range(2)]  # C_out, C
    height, width = (draw(st.integers(1, 9)) for _ in range(2))
    levels = draw(st.sampled_from([1, 4, 127, 255]))
    size = (images, sizes[1], height, width)
    before = torch.randint(0, levels + 1, size, generator=g, dtype=torch.uint8)
    fresh = torch.randint(0, levels + 1, size, generator=g, dtype=torch.uint8)
    changed = torch.rand(size, generator=g) < draw(st.sampled_from([0.0, 0.1, 1.0]))
    weight = torch.randint(-128, 128, (*sizes, kernel, kernel), generator=g, dtype=torch.int8)
    padding = draw(st.integers(kernel // 2, kernel))
    return before, torch.where(changed, fresh, before), weight, draw(st.integers(1, 3)), padding


@given(case=cases())
@settings(max_examples=60)
def test_the_sums_are_those_of_plain_torch(case):
    before, now, *geometry = case
    want = [convolution._convolve(counts, *geometry) for counts in (before, now)]
    for sums, counts in zip(want, (before, now), strict=True):
        assert torch.equal(count_conv2d(counts, *geometry), sums)
        assert torch.equal(event_conv2d(counts, *geometry), sums)
    kept = want[0].clone()
    assert torch.equal(change_conv2d(now, before, kept, *geometry), want[1])
    assert torch.equal(kept, want[0])  # what is given is not written


@given(case=cases())
@settings(max_examples=20)
def test_without_the_kernels_as_well(case):
    before, now, *geometry = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "suits", lambda *_: False)
        sums = [count_conv2d(counts, *geometry) for counts in (before, now)]
        assert torch.equal(event_conv2d(now, *geometry), sums[1])
        assert torch.equal(change_conv2d(now, before, sums[0], *geometry), sums[1])


COUNTS = torch.ones(2, 3, 5, 5, dtype=torch.uint8)
WEIGHT = torch.ones(4, 3, 3, 3, dtype=torch.int8)


@pytest.mark.parametrize(
    ("counts", "weight", "stride", "padding"),
    [
        (COUNTS.int(), WEIGHT, 1, 1),
        (COUNTS[0], WEIGHT, 1, 1),
        (COUNTS, WEIGHT.float(), 1, 1),
        (COUNTS, WEIGHT[:, :2], 1, 1),
        (COUNTS, WEIGHT[..., :2], 1, 1),
        (COUNTS.to_sparse(), WEIGHT, 1, 1),
        (COUNTS, WEIGHT.to_sparse(), 1, 1),
        (COUNTS, WEIGHT[:0], 1, 1),
        (COUNTS, WEIGHT, 0, 1),
        (COUNTS, WEIGHT, 1, -1),
        (COUNTS[..., :2], WEIGHT, 1, 0),
    ],
)
def test_what_is_no_convolution_of_counts_is_refused(counts, weight, stride, padding):
    for operator in (count_conv2d, event_conv2d):
        with pytest.raises(UserError, match="count convolution"):
            operator(counts, weight, stride, padding)


def test_sums_of_another_convolution_are_refused():
    sums = count_conv2d(COUNTS, WEIGHT, 1, 1)
    for before, kept in ((COUNTS[:1], sums), (COUNTS, sums[:, :1]), (COUNTS, sums.long())):
        with pytest.raises(UserError, match="change convolution: the earlier"):
            change_conv2d(COUNTS, before, kept, WEIGHT, 1, 1)
