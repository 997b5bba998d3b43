"""What pytest must not import in search of examples."""

from importlib.util import find_spec

collect_ignore = []
if find_spec("triton") is None:
    collect_ignore += ["src/spikediff/neurons/kernels/triton_programs.py"]
