"""The order of the data, and batches from other processes, whose errors read as our own."""

import os
import signal

import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, _utils

from spikediff.data import load_images
from spikediff.errors import UserError
from spikediff.training.batches import BatchPlan, batches


@pytest.fixture(autouse=True, scope="module")
def _impatient():
    """Workers are waited for as long as they need to end, and not for torch's five seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_utils, "MP_STATUS_CHECK_INTERVAL", 0.2)
        yield


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


def test_every_image_once_an_epoch_in_a_new_order():
    plan = BatchPlan(num_images=10, batch_size=4, seed=0)
    seen = torch.cat([plan.indices(step) for step in range(5)])
    assert seen[:10].sort().values.tolist() == list(range(10))
    assert seen[10:].sort().values.tolist() == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()
    assert torch.equal(plan.indices(3), BatchPlan(10, 4, 0).indices(3))
    assert not torch.equal(plan.indices(0), BatchPlan(10, 4, 1).indices(0))


def test_a_batch_may_be_larger_than_the_data():
    assert BatchPlan(3, 8, 0).indices(0).bincount().tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])
