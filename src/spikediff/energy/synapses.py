"""Synaptic operations: the number of pairs of inputs and weights.

`SYNAPSES` lists the tensor operations that multiply and accumulate. A row counts one call from its
arguments.
"""

from collections.abc import Callable, Sequence
from functools import cache
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spikediff.energy.ledger import REAL, Cell
from spikediff.energy.provenance import Provenance, Signal


def fan_out_1d(
    size: int,
    out_size: int,
    kernel: int,
    stride: int,
    padding: int,
    dilation: int,
    transposed: bool = False,
) -> tuple[int, ...]:
    """Return the number of output positions that each input position reaches, along one axis.

    A convolution connects output o and input i if `i = o * stride - padding + k * dilation` for a
    kernel position k; a transposed one exchanges i and o. Padding positions reach nothing.

    Example:
        >>> fan_out_1d(size=4, out_size=4, kernel=3, stride=1, padding=1, dilation=1)
        (2, 3, 3, 2)
        >>> fan_out_1d(size=4, out_size=2, kernel=3, stride=2, padding=1, dilation=1)
        (1, 2, 1, 1)
    """
    near, far = (size, out_size) if transposed else (out_size, size)
    offsets = np.arange(kernel) * dilation - padding
    positions = np.arange(near)[:, None] * stride + offsets  # [near, kernel]
    inside = (positions >= 0) & (positions < far)
    if transposed:
        return tuple(inside.sum(axis=1).tolist())
    return tuple(np.bincount(positions[inside], minlength=size).tolist())


@cache
def fan_out(
    sizes: tuple[int, ...],
    out_sizes: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    transposed: bool = False,
) -> NDArray[np.float64]:
    """Return the output positions that each input position reaches, float64 [*sizes].

    The axes are independent, so this is the outer product of their counts.
    """
    axes = zip(sizes, out_sizes, kernel, stride, padding, dilation, strict=True)
    result = np.ones(())
    for size, out_size, taps, step, border, spread in axes:
        along = fan_out_1d(size, out_size, taps, step, border, spread, transposed)
        result = result[..., None] * np.array(along, dtype=np.float64)
    return result


def _through_weights(
    operation: str,
    source: Tensor,
    shape: Sequence[int],
    targets: NDArray[np.float64],
    dense_macs: int,
    weights: int,
    known: Provenance,
    bits: int | None = None,
) -> Cell:
    """Count an input of shape [N, C, *S] whose element at s reaches targets[s] elements."""
    signal = known.read(source)
    events, synops = source.numel(), 0
    if signal.events is not None:
        events, synops = _reached(signal.events.reshape(shape), signal.levels, targets)
    cell = Cell.of_synapse(
        operation,
        signal.kind,
        dense_macs,
        inner_macs=round(shape[0] * shape[1] * float(targets.sum())),
        synops=synops,
        events=events,
        sites=source.numel(),
        copies=1 if signal.spiking else known.copies(source),
        weights=weights,
        bits=signal.bits if bits is None else bits,
    )
    difference, followed = known.changes_of(source, signal)
    cell.followed = followed
    if difference is not None:
        most = 2 * max(1, signal.levels)
        cell.change_events, cell.changes = _reached(difference.reshape(shape), most, targets)
        cell.compared, cell.changed = source.numel(), int(difference.count_nonzero())
        cell.changes_in_padding = 0
    return cell


def _reached(events: Tensor, most: int, targets: NDArray[np.float64]) -> tuple[int, int]:
    """Return the number of events in [N, C, *S], and of the targets they reach."""
    per_site = _sum_rows(events, most)  # [*S]
    return round(float(per_site.sum())), round(float((per_site * targets).sum()))


def _sum_rows(events: Tensor, levels: int) -> NDArray[np.float64]:
    """Sum [N, C, *S] of 0..levels over N and C, exactly, as [*S]."""
    largest = events.shape[0] * events.shape[1] * levels
    exact = torch.float32 if largest < 2**24 else torch.float64
    sums: NDArray[np.float64] = events.sum((0, 1), dtype=exact).cpu().numpy().astype(np.float64)
    return sums


def one_to_one(x: Tensor, signal: Signal) -> Cell:
    """Count a frozen batch norm of spikes: each spike reaches one target by a channel's weight."""
    assert signal.events is not None
    events = round(signal.events.sum(dtype=torch.float64).item())
    n = x.numel()
    return Cell.of_synapse("one-to-one", signal.kind, n, n, events, events, n, weights=x.shape[1])


def _convolution(
    arguments: Sequence[Any], out: Tensor, known: Provenance, bits: int | None = None
) -> Cell:
    x, weight, _bias, stride, padding, dilation, transposed, _out_padding, groups = arguments
    axes = weight.dim() - 2
    spread = [tuple(v) * axes if len(v) == 1 else tuple(v) for v in (stride, padding, dilation)]
    sizes, out_sizes, kernel = tuple(x.shape[2:]), tuple(out.shape[2:]), tuple(weight.shape[2:])
    out_channels = weight.shape[1] if transposed else weight.shape[0] // groups  # of a group
    # As FLOP counters do, with the padding's zeros, which the sum of `fan_out` excludes.
    pairs = prod(sizes if transposed else out_sizes) * prod(kernel)
    cell = _through_weights(
        f"conv{'_transpose' if transposed else ''}{axes}d {'x'.join(map(str, kernel))}",
        arguments[0],
        x.shape,
        out_channels * fan_out(sizes, out_sizes, kernel, *spread, transposed),
        x.shape[0] * x.shape[1] * out_channels * pairs,
        weight.numel(),
        known,
        bits,
    )
    cell.pass_macs //= known.passes(x.shape[0])
    return cell


# Convolutions of integers (spikediff.systems.integer), known here only by name.


def _count_conv2d(
    arguments: Sequence[Any], out: Tensor, known: Provenance, bits: int | None = None
) -> Cell:
    """Count a convolution of spike counts: (counts, weight, stride, padding)."""
    x, weight, stride, padding = arguments
    plain = (x, weight, None, [stride], [padding], [1], False, [0], 1)
    return _convolution(plain, out, known, bits)


def _fixed_point_conv2d(arguments: Sequence[Any], out: Tensor, known: Provenance) -> Cell:
    """Count a convolution of fixed-point values, as wide as their dtype."""
    known.add_real(arguments[0])
    return _count_conv2d(arguments, out, known, bits=8 * arguments[0].element_size())


def _change_conv2d(arguments: Sequence[Any], out: Tensor, known: Provenance) -> Cell:
    """Count a convolution of changes: (counts, before, sums, weight, stride, padding)."""
    counts, before, _sums, *geometry = arguments
    cell = _count_conv2d((counts, *geometry), out, known)
    difference = (counts.to(torch.int16) - before.to(torch.int16)).abs()
    known.add_spikes(difference, levels=2 * int(torch.iinfo(counts.dtype).max))
    changes = _count_conv2d((difference, *geometry), out, known)
    cell.kept = cell.followed = True
    cell.changes, cell.change_events = changes.synops, changes.events
    begun = bool(before.any())  # False in the first call
    cell.compared = counts.numel() if begun else 0
    cell.changed = int(difference.count_nonzero()) if begun else 0
    return cell


def _linear(x: Tensor, out_features: int, weights: int, known: Provenance) -> Cell:
    """Count x [..., F] against weights [F, out_features]."""
    targets = np.array(float(out_features))
    shape = (x.numel() // x.shape[-1], x.shape[-1])  # [N, F]
    return _through_weights("linear", x, shape, targets, x.numel() * out_features, weights, known)


def _product(a: Tensor, b: Tensor, known: Provenance) -> Cell:
    """Count a [..., R, K] @ b [..., K, M], both data; for two spike trains, the coincidences."""
    left, right = known.read(a), known.read(b)
    rows = torch.ones_like(a) if left.events is None else left.events
    columns = torch.ones_like(b) if right.events is None else right.events
    pairs = (rows.double().sum(-2) * columns.double().sum(-1)).sum()  # over [..., K]
    dense = a.numel() * b.shape[-1]
    active, signal = (columns, right) if right.spiking and not left.spiking else (rows, left)
    return Cell.of_synapse(
        "matmul",
        signal.kind,
        dense,
        dense,
        synops=round(pairs.item()) if signal.spiking else 0,
        events=round(active.sum(dtype=torch.float64).item()),
        sites=active.numel(),
    )


def _matrix_product(a: Tensor, b: Tensor, known: Provenance) -> Cell:
    """Count a @ b, which is a linear layer if either side is a weight."""
    if known.is_weight(b):
        return _linear(a, b.shape[-1], b.numel(), known)
    if known.is_weight(a):
        return _linear(b.transpose(-2, -1), a.shape[-2], a.numel(), known)
    return _product(a, b, known)


def _fused_attention(arguments: Sequence[Any], _out: Any, _known: Provenance) -> Cell:
    """Count softmax(q k') v, [B, heads, L, D], which is real-valued internally."""
    query, key = arguments[0], arguments[1]
    macs = 2 * query.numel() * key.shape[-2]
    return Cell.of_synapse("attention", REAL, macs, macs, 0, query.numel(), query.numel())


SYNAPSES: dict[str, Callable[[Sequence[Any], Any, Provenance], Cell]] = {
    "convolution": _convolution,
    "count_conv2d": _count_conv2d,
    "event_conv2d": _count_conv2d,
    "fixed_point_conv2d": _fixed_point_conv2d,
    "change_conv2d": _change_conv2d,
    "linear": lambda a, _out, known: _linear(a[0], a[1].shape[0], a[1].numel(), known),
    "mm": lambda a, _out, known: _matrix_product(a[0], a[1], known),
    "mv": lambda a, _out, known: _matrix_product(a[0], a[1][:, None], known),
    "addmm": lambda a, _out, known: _matrix_product(a[1], a[2], known),
    "addmv": lambda a, _out, known: _matrix_product(a[1], a[2][:, None], known),
    "bmm": lambda a, _out, known: _matrix_product(a[0], a[1], known),
    "baddbmm": lambda a, _out, known: _matrix_product(a[1], a[2], known),
    "dot": lambda a, _out, known: _matrix_product(a[0][None], a[1][:, None], known),
    "_scaled_dot_product_flash_attention_for_cpu": _fused_attention,
    "_scaled_dot_product_flash_attention": _fused_attention,
    "_scaled_dot_product_efficient_attention": _fused_attention,
    "_scaled_dot_product_cudnn_attention": _fused_attention,
    "_scaled_dot_product_fused_attention_overrideable": _fused_attention,
}
