"""Which tensors are finite."""

import pytest
import torch

from spikediff.errors import UserError
from spikediff.files.tensors import check_finite


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_finite_numbers_with_an_infinite_sum_pass(dtype):
    large = torch.full((3,), torch.finfo(dtype).max, dtype=dtype)
    check_finite({"large": large, "count": torch.tensor(3), "none": torch.empty(0)}, "weights")
    with pytest.raises(UserError, match="1 of 2 tensors hold NaN or infinity: large"):
        check_finite({"large": large * 2, "small": large / 2}, "weights")
