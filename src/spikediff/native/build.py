"""Compile the C kernels: one shared library for every kind of processor.

Run by the wheel's build (`hatch_build.py`), and again by hand with `python -m
spikediff.native.build`. It needs a C compiler and nothing else: no headers of Python or torch.
Where it fails, the library is slower and otherwise the same.
"""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from zlib import crc32

SOURCES = (
    *("neuron.c", "synapse.c", "integer_sums.c", "weight_gradient.c", "weights.c", "bits.c"),
    *("count_neuron.c", "count_synapse.c", "count_tiles.c", "integer_network.c"),
)

# -ffp-contract=off: the compiler must not fuse what torch rounds twice. No -ffast-math: in a
# shared library it may switch the whole process to flushing small numbers to zero.
FLAGS = [
    "-std=gnu11",
    "-O3",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
]

# The key of a library, and what the compiler is told; `library.py` chooses by the running machine.
X86 = {
    "baseline": ["-march=x86-64"],
    "avx2": ["-march=x86-64-v3"],
    "avx512": ["-march=x86-64-v4"],
    "vnni": ["-march=x86-64-v4", "-mavx512vnni"],
    "amx": ["-march=x86-64-v4", "-mavx512vnni", "-mamx-tile", "-mamx-int8"],
}


def targets() -> dict[str, list[str]]:
    """Return the compiler's flags by the key of the library, for this machine's architecture."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        return dict(X86)
    return {"baseline": []}


def file_name(key: str) -> str:
    """Return the name of a library's file."""
    return f"_spikediff_{key}.so"


def fingerprint() -> int:
    """Return the fingerprint of these sources, which a library carries."""
    files = sorted(Path(__file__).parent.glob("*.[ch]"))
    return crc32(b"".join(path.read_bytes() for path in files))


def compiler() -> str | None:
    """Return the C compiler, `$CC` or the system's; None if there is none."""
    names = [os.environ["CC"]] if os.environ.get("CC") else ["cc", "gcc", "clang"]
    return next((path for name in names if (path := shutil.which(name))), None)


def build(folder: Path) -> list[Path]:
    """Return the libraries that compiled, written to `folder`; none without a compiler."""
    made: list[Path] = []
    command = compiler()
    if command is None:
        print("spikediff: no C compiler; the neurons and synapses run in plain torch")
        return made
    sources = [str(Path(__file__).with_name(name)) for name in SOURCES]
    known = f"-DFINGERPRINT={fingerprint()}u"
    for key, flags in targets().items():
        library = folder / file_name(key)
        for threads in (["-fopenmp"], []):  # one thread is better than no kernel
            whole = [command, *FLAGS, known, *flags, *threads, *sources, "-o", str(library), "-lm"]
            done = subprocess.run(whole, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                made.append(library)
                break
        else:
            print(f"spikediff: the {key} kernels did not compile:\n{done.stderr[-2000:]}")
    return made


if __name__ == "__main__":
    compiled = build(Path(__file__).parent)
    print("\n".join(str(path) for path in compiled))
    sys.exit(0 if compiled else 1)
