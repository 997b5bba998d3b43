"""Settings of pytest: modules without examples, no deadlines, few threads, and garbage collector.

The process of pytest-xdist that hands out tests collects none. What collecting needs is imported
when a collection starts, so that process does not import torch.
"""

import gc
import os
from importlib.util import find_spec

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # the command line does the same
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of NumPy and scikit-learn; torch is told so anyway

collect_ignore: list[str] = []


def pytest_collection() -> None:
    """Modules stay, so no garbage is searched for while they are imported."""
    gc.disable()
    from hypothesis import settings

    from spikediff.native import native

    settings.register_profile("no deadline", deadline=None)
    settings.load_profile("no deadline")
    if find_spec("triton") is None:
        collect_ignore.append("src/spikediff/neurons/kernels/triton_programs.py")
    if native() is None:  # their examples need the compiled kernels
        collect_ignore.extend(["src/spikediff/events/packed.py", "src/spikediff/events/synapse.py"])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """pytest-xdist keeps the tests of a file in one process.

    All files that use `fresh_process` share one, so only one server imports torch and diffusers.
    """
    forking = {item.path for item in items if "fresh_process" in getattr(item, "fixturenames", ())}
    for item in items:
        group = "fresh processes" if item.path in forking else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


def pytest_collection_finish() -> None:
    """What was imported is never searched again, and what tests make is searched less often."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


def pytest_sessionfinish() -> None:
    """What tests left is not searched: the process ends."""
    gc.freeze()
