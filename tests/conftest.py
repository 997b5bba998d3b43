"""What every test shares: one thread, so that numbers repeat; and where real files are."""

import os
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


def _folder(variable, beside):
    """Return the folder that a variable names, else the one beside the repository; or skip."""
    named = os.environ.get(variable)
    folder = Path(named) if named else REPOSITORY.parent / "shared" / beside
    if not folder.is_dir():
        pytest.skip(f"set {variable} to a folder of the real files")
    return folder


@pytest.fixture(scope="session")
def real_data():
    """The folder of real data sets."""
    return _folder("SPIKEDIFF_DATA_DIR", "data")


@pytest.fixture(scope="session")
def feature_weights():
    """The folder of feature networks' weights."""
    return _folder("SPIKEDIFF_FEATURE_WEIGHTS", "metric_weights")
