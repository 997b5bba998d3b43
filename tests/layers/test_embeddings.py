"""Timesteps and classes as vectors."""

import pytest
import torch

from spikediff.errors import UserError
from spikediff.layers import class_embedding, embed_classes, one_or_each

CPU = torch.device("cpu")


def test_timesteps_are_one_or_one_per_image():
    assert one_or_each("timestep", 5, 3, CPU).tolist() == [5]
    assert one_or_each("timestep", torch.tensor(5), 3, CPU).tolist() == [5]
    assert one_or_each("timestep", [1, 2, 3], 3, CPU).tolist() == [1, 2, 3]
    for values in ([1, 2], [], None, "1"):
        with pytest.raises(UserError, match="timestep"):
            one_or_each("timestep", values, 3, CPU)


def test_labels_are_one_or_one_per_image():
    embedding = class_embedding(4, 6)
    want = embedding.table(torch.tensor([1, 3]))
    assert torch.equal(embed_classes(embedding, [1, 3], 2, CPU), want)
    assert torch.equal(embed_classes(embedding, None, 2, CPU), embedding.table.weight[-1:])
    for labels, word in (([0, 1, 2], "3 for 2 images"), ([0.5], "whole"), ([5], "knows 0 to 3")):
        with pytest.raises(UserError, match=word):
            embed_classes(embedding, labels, 2, CPU)
    with pytest.raises(UserError, match="without classes"):
        embed_classes(None, [1], 1, CPU)
