"""What every test shares: one thread, so that numbers repeat; and where real files are."""

import os
from pathlib import Path

import pytest
import torch

from fresh import Server
from spikediff import progress
from spikediff.files.writing import write_whole
from spikediff.training.curve import LossCurve

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


_draw = LossCurve.draw


@pytest.fixture(autouse=True, scope="session")
def _undrawn():
    """Loss curves are empty files: drawing one takes longer than a small network learns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LossCurve, "draw", lambda curve: write_whole(curve.png, b""))
        yield


@pytest.fixture(autouse=True, scope="session")
def _patient():
    """No command says that it is at work, however busy the machine is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "_LONGEST", 600.0)
        yield


@pytest.fixture
def drawn(monkeypatch):
    """Loss curves are drawn."""
    monkeypatch.setattr(LossCurve, "draw", _draw)


@pytest.fixture(scope="session")
def fresh_process(tmp_path_factory):
    """What runs programs in processes of their own; see `fresh`."""
    server = Server(tmp_path_factory.mktemp("fresh"))
    yield server
    server.close()


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
