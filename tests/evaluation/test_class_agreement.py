"""The share of images that are what they were asked to be."""

import pytest
import torch

from spikediff.errors import UserError
from spikediff.evaluation.class_scores import class_agreement


def test_shares_are_counted_by_class():
    labels = torch.tensor([0, 0, 0, 2, 2])
    said = torch.tensor([0, 0, 1, 2, 1])
    found = class_agreement(torch.eye(4)[said], labels)
    assert found.rate == pytest.approx(3 / 5)
    assert found.by_class == (pytest.approx(2 / 3), None, 0.5, None)
    assert found.count == 5


def test_labels_must_fit():
    with pytest.raises(UserError, match="for 3 labels"):
        class_agreement(torch.eye(4), torch.tensor([0, 1, 2]))
    with pytest.raises(UserError, match="for 0 labels"):
        class_agreement(torch.empty(0, 4), torch.tensor([]))
