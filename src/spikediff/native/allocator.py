"""Keep the memory of large tensors, which the C library of Linux otherwise gives back each time."""

import ctypes
import sys

# Names and numbers of glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
LARGEST = 2**31 - 1


def keep_large_tensors() -> bool:
    """Let glibc keep freed memory for the next tensor, for the rest of the process.

    glibc gives a tensor above 32 MiB pages of its own and hands them back when it is freed, so that
    every such tensor is paid for with page faults when it is first written. Kept memory is not
    returned to the system, which is why this is for the user to ask for.

    Returns:
        Whether it is done; not on systems without glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl has none
        return False
    done = [mallopt(option, LARGEST) for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD)]
    return all(done)
