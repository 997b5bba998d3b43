"""Times of several callables, measured in turns, so that what disturbs one disturbs all."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Clock = Callable[[], float]
LEAST_ROUNDS = 3  # a median of fewer is no median


@dataclass(frozen=True)
class Timing:
    """Seconds of every round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle round."""
        return statistics.median(self.seconds)

    @property
    def minimum(self) -> float:
        """The least disturbed round."""
        return min(self.seconds)


def clock_for(threads: int) -> tuple[str, Clock]:
    """Return the clock, and its name.

    With one thread, the CPU time of the process: other work on the machine takes turns with it and
    is not counted. With more, the time on the wall, because CPU time adds the threads up.
    """
    return ("cpu", time.process_time) if threads == 1 else ("wall", time.perf_counter)


def interleave(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Clock,
    warm_up: int = 1,
    budget: float = float("inf"),
) -> dict[str, Timing]:
    """Call everything once a round, for some rounds, and time every call.

    Each round starts with another callable, so that nobody always follows the same neighbour's
    caches. Garbage is collected between rounds and never within one; results are dropped after the
    clock has stopped.

    Args:
        runs: What to call, by name.
        rounds: Timed rounds.
        clock: Returns seconds.
        warm_up: Rounds before, not timed.
        budget: Seconds after which no further round starts, once there are `LEAST_ROUNDS`.

    Returns:
        The timing of every name.
    """
    names = list(runs)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(warm_up):
        for name in names:
            runs[name]()
    enabled = gc.isenabled()
    gc.disable()
    gc.freeze()  # what is there already is no garbage of a round
    try:
        for done in range(rounds):
            spent = sum(map(sum, seconds.values()))
            if done >= LEAST_ROUNDS and spent >= budget:
                break
            gc.collect()
            for name in names[done % len(names) :] + names[: done % len(names)]:
                start = clock()
                result = runs[name]()
                seconds[name].append(clock() - start)
                del result
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def repeat(run: Callable[[], object], times: int) -> None:
    """Call something again and again."""
    for _ in range(times):
        run()
