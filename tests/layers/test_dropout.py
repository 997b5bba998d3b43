"""Dropout of whole windows."""

import torch

from spikediff.layers import WindowDropout


def test_dropout_acts_in_training_alone_and_on_whole_windows():
    dropout, x = WindowDropout(0.5), torch.ones(4, 2, 100)
    torch.manual_seed(0)
    out = dropout(x)
    assert set(out.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(out[0], out[3])
    assert torch.equal(dropout.eval()(x), x)
