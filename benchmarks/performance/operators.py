"""Where a computation spends its time, by the operators of torch's profiler."""

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile

OTHERS = "others"


def seconds_by_operator(run: Callable[[], object], most: int = 8) -> dict[str, float]:
    """Return the CPU seconds of the operators that take most, their children excluded.

    Args:
        run: The computation, warm.
        most: Operators told apart; the rest are summed as `OTHERS`.
    """
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as recorded:
        run()
    spent = {e.key: e.self_cpu_time_total / 1e6 for e in recorded.key_averages()}
    ranked = sorted(spent, key=lambda key: -spent[key])
    told = {key: spent[key] for key in ranked[:most]}
    return told | {OTHERS: sum(spent[key] for key in ranked[most:])}
