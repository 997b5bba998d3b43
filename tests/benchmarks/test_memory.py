"""The law of the memory record: what saves n tensors is counted as n tensors."""

import pytest
import torch

from performance.memory import allocations, peak_bytes, retained_bytes
from performance.resident import CLEAR, added_at_peak

N = 1000
TENSOR, SCALAR = 4 * N, 4


def chain(x, length):
    """Save `length` tensors: every exp keeps its result."""
    for _ in range(length):
        x = x.exp()
    return x.sum()


@pytest.fixture
def x():
    return torch.randn(N, requires_grad=True)


@pytest.mark.parametrize("length", [0, 1, 2, 5])
def test_n_saved_tensors_are_counted_as_n(x, length):
    assert retained_bytes(lambda: chain(x, length)) == length * TENSOR + SCALAR


def test_what_is_not_saved_is_not_counted(x):
    assert retained_bytes(lambda: (x + 1.0 + 1.0 + 1.0).sum()) == SCALAR


def test_compressed_tensors_are_counted_at_what_they_take(x):
    def packed():
        as_bytes = torch.autograd.graph.saved_tensors_hooks(
            lambda t: t.to(torch.uint8), lambda t: t.float()
        )
        with as_bytes:
            return chain(x, 3)

    assert retained_bytes(packed) == 3 * N + SCALAR  # a byte instead of four


def test_the_peak_has_what_was_released_again():
    def run():
        a = torch.ones(N)
        b = a + 1.0
        del a
        return b.sum()

    assert 2 * TENSOR <= peak_bytes(run) < 2 * TENSOR + 100  # and the numbers 1.0


def test_backward_is_in_the_peak(x):
    peak = peak_bytes(lambda: chain(x, 5).backward())
    assert peak > 5 * TENSOR + SCALAR
    assert x.grad is not None


def test_a_release_of_what_was_there_before_is_refused():
    _, kept = allocations(lambda: [torch.ones(N)])
    with pytest.raises(RuntimeError, match="released what was there before"):
        peak_bytes(kept.clear)


@pytest.mark.skipif(not CLEAR.exists(), reason="needs Linux's /proc")
def test_resident_memory_grows_by_what_is_touched_and_released():
    size = 64 * 2**20
    added = added_at_peak(lambda: torch.ones(size // 4))
    assert 0.9 * size < added < 1.5 * size
