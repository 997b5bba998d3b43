"""Linear layers have the same bits on any number of threads."""

import pytest
import torch
from torch import nn

from spikediff.layers.batch_invariant import batch_invariant, each_alone, linear_by_image


@pytest.mark.parametrize("width", [128, 512])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_linear_layer_does_not_depend_on_the_number_of_threads(width, rows):
    """Some processors sum the shares of three or six threads in another order."""
    torch.manual_seed(0)
    linear, x = nn.Linear(width, width), torch.randn(rows, width)
    answers = {}
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 6):
            torch.set_num_threads(threads)
            with torch.no_grad(), batch_invariant(linear):
                answers[threads] = [linear(x), each_alone(linear, x), linear_by_image(linear, x)]
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for threads, found in answers.items():
        for answer, of_one_thread in zip(found, answers[1], strict=True):
            assert torch.equal(answer, of_one_thread), threads
