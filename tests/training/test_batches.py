"""Batches from other processes: their errors read as the parent's."""

import os
import signal

import pytest
from PIL import Image
from torch.utils.data import Dataset

from spikediff.data import load_images
from spikediff.errors import UserError
from spikediff.training.batches import BatchPlan, batches


@pytest.mark.parametrize("workers", [0, 2])
def test_a_worker_reports_an_error_as_the_parent_does(tmp_path, workers):
    for n in range(40):
        Image.new("L", (8, 8)).save(tmp_path / f"{n}.png")
    dataset = load_images(str(tmp_path), image_size=8, channels=1)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError) as caught:
        next(batches(dataset, BatchPlan(len(dataset), 4, 0), 0, 0, 1, workers))
    assert "cannot be decoded as an image" in str(caught.value)
    assert "Traceback" not in str(caught.value)


class _Dying(Dataset):
    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_is_one_line():
    with pytest.raises(UserError, match="a process that decodes images died"):
        next(batches(_Dying(), BatchPlan(8, 4, 0), 0, 0, 1, 1))
