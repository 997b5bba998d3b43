"""Settings of pytest: modules without examples, and no deadlines."""

import gc
from importlib.util import find_spec

from hypothesis import settings

from spikediff.native import native

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

collect_ignore = []
if find_spec("triton") is None:
    collect_ignore += ["src/spikediff/neurons/kernels/triton_programs.py"]
if native() is None:  # their examples need the compiled kernels
    collect_ignore += ["src/spikediff/events/packed.py", "src/spikediff/events/synapse.py"]


def pytest_collection() -> None:
    """Modules stay, so no garbage is searched for while they are imported."""
    gc.disable()


def pytest_collection_finish() -> None:
    """What was imported is never searched again."""
    gc.freeze()
    gc.enable()
