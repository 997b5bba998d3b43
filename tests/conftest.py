"""What every test shares: one thread, so that numbers repeat; and where real files are.

What is heavy is imported by fixtures: see conftest.py of the repository.
"""

import os
import signal
from pathlib import Path

import pytest

from fresh import Server

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _undrawn():
    """Loss curves are empty files: drawing one takes longer than a small network learns."""
    from spikediff.files.writing import write_whole
    from spikediff.training.curve import LossCurve

    draw = LossCurve.draw
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LossCurve, "draw", lambda curve: write_whole(curve.png, b""))
        yield draw


@pytest.fixture(autouse=True, scope="session")
def _unmagnified():
    """Grids of small images stay small: compressing large ones takes longer than sampling."""
    from spikediff.diffusion import outputs

    readable = outputs._READABLE
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outputs, "_READABLE", 32)
        yield readable


@pytest.fixture(autouse=True, scope="session")
def _patient():
    """No command says that it is at work, however busy the machine is."""
    from spikediff import progress

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "_LONGEST", 600.0)
        yield


@pytest.fixture(autouse=True, scope="session")
def _read_once():
    """What never changes is read once a session.

    tyro reads an options class and its docstrings once, diffusers the signature of a class, and
    jinja2 a template.
    """
    from functools import cache

    from diffusers.configuration_utils import ConfigMixin
    from jinja2 import Environment
    from tyro import MISSING_NONPROP
    from tyro._docstrings import _ClassTokenization
    from tyro._parsers import ParserSpecification

    read, layouts = ParserSpecification.from_callable_or_type, {}
    init_keys = cache(ConfigMixin._get_init_keys)

    def layout(options, **how):
        if how["default_instance"] is not MISSING_NONPROP or how["parent_classes"]:
            return read(options, **how)
        if options not in layouts:
            layouts[options] = read(options, **how)
        return layouts[options]

    def copied(cls):
        return set(init_keys(cls))  # callers remove keys

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ParserSpecification, "from_callable_or_type", staticmethod(layout))
        patch.setattr(_ClassTokenization, "make", staticmethod(cache(_ClassTokenization.make)))
        patch.setattr(ConfigMixin, "_get_init_keys", staticmethod(copied))
        patch.setattr(Environment, "compile", cache(Environment.compile))
        yield


@pytest.fixture(autouse=True, scope="session")
def _own_modules(tmp_path_factory):
    """Every process of the session copies the code of saved pipelines into a folder of its own."""
    from diffusers.utils import dynamic_modules_utils

    folder = str(tmp_path_factory.mktemp("modules"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_MODULES_CACHE", folder)
        patch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", folder)
        yield


@pytest.fixture
def figures_are_empty(monkeypatch):
    """Figures are empty files: drawing one takes longer than a small network's images."""
    from matplotlib.figure import Figure

    def write(figure, file, **_):
        file.write(b"") if hasattr(file, "write") else Path(file).write_bytes(b"")

    monkeypatch.setattr(Figure, "savefig", write)


@pytest.fixture
def heard_sighup():
    """SIGHUP is not ignored, even if `nohup` started the test run."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def drawn(_undrawn, monkeypatch):
    """Loss curves are drawn."""
    from spikediff.training.curve import LossCurve

    monkeypatch.setattr(LossCurve, "draw", _undrawn)


@pytest.fixture
def magnified(_unmagnified, monkeypatch):
    """Grids of small images are magnified."""
    from spikediff.diffusion import outputs

    monkeypatch.setattr(outputs, "_READABLE", _unmagnified)


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
