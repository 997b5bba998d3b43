"""Bytes that a computation takes, from the record of torch's own CPU allocator.

The record has every tensor's allocation and release, whoever made it and however it is kept: a
peer that compresses what it saves is counted at what the compressed tensors take. It is exact and
repeats to the byte. It does not see memory that a library takes past the allocator (oneDNN's
scratch); `resident` does.
"""

import os
from collections.abc import Callable
from itertools import accumulate

from torch.profiler import ProfilerActivity, profile

os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # two lines of chatter a record on stderr


def allocations(run: Callable[[], object]) -> tuple[list[int], object]:
    """Return the bytes of every allocation (releases negative) in order, and what `run` returned.

    Args:
        run: The computation; it must not release what was allocated before it, as a network that
            keeps its neurons' state from call to call does.

    Raises:
        RuntimeError: It did.
    """
    with profile(
        activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as recorded:
        result = run()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    changes = [event.nbytes() for event in events]
    if min(accumulate(changes, initial=0)) < 0:
        raise RuntimeError("released what was there before: clear the network before the record")
    return changes, result


def retained_bytes(forward: Callable[[], object]) -> int:
    """Return what is alive after a forward pass: its result, and all that autograd keeps."""
    changes, result = allocations(forward)
    del result  # alive until here
    return sum(changes)


def peak_bytes(run: Callable[[], object]) -> int:
    """Return the most that was alive at one time, above what was there before."""
    changes, _ = allocations(run)
    return max(accumulate(changes, initial=0))
