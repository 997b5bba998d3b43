"""Operations without synapses: norms, element-by-element arithmetic, and data movement."""
# ruff: noqa: SIM905 -- long tables of names read better as words than as quoted strings

from collections.abc import Sequence
from typing import Any

from torch import Tensor

NORMS = {
    "native_batch_norm": "batch norm",
    "_native_batch_norm_legit": "batch norm",
    "_native_batch_norm_legit_no_training": "batch norm",
    "_batch_norm_with_update": "batch norm",
    "_batch_norm_no_update": "batch norm",
    "cudnn_batch_norm": "batch norm",
    "native_group_norm": "group norm",
    "native_layer_norm": "layer norm",
    "_fused_rms_norm": "rms norm",
}

ADDITIONS = set("add sub rsub neg abs".split())
_SUMS = set("sum mean cumsum avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d".split())
_PRODUCTS = set("mul div addcmul addcdiv lerp".split())
_FUNCTIONS = set(
    """
    silu sigmoid tanh exp log log1p expm1 sqrt rsqrt pow square reciprocal sin cos erf gelu mish
    softplus elu hardswish _softmax _log_softmax native_dropout upsample_bilinear2d
    _upsample_bilinear2d_aa upsample_bicubic2d var var_mean std linalg_vector_norm norm
    """.split()
)

# The result has the same values as the input.
SAME_VALUES = set(
    """
    view _unsafe_view reshape _reshape_alias expand clone t transpose permute alias detach slice
    select unsqueeze squeeze _to_copy as_strided contiguous repeat
    """.split()
)

# Multiplication of integers by a power of two.
BIT_SHIFTS = set(
    """
    __lshift __rshift __ilshift __irshift bitwise_left_shift bitwise_right_shift to_fixed_point
    from_fixed_point
    """.split()
)

# These choose, compare, look up or create data; they multiply and add nothing.
_MOVES = (
    SAME_VALUES
    | BIT_SHIFTS
    | set(
        """
    copy split split_with_sizes unbind cat stack index index_select gather embedding
    repeat_interleave flip roll constant_pad_nd reflection_pad2d replication_pad2d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d
    pixel_shuffle pixel_unshuffle unfold lift_fresh diagonal movedim masked_select masked_fill
    relu clamp clamp_min clamp_max hardtanh leaky_relu threshold where max_pool2d_with_indices
    max min amax amin aminmax maximum minimum sign round floor ceil trunc argmax argmin sort topk
    heaviside eq ne lt le gt ge equal isnan isfinite any all nonzero count_nonzero
    logical_not logical_and logical_or bitwise_not bitwise_and bitwise_or
    item _local_scalar_dense empty empty_like empty_strided new_empty new_empty_strided zeros ones
    zeros_like ones_like full full_like new_zeros new_ones new_full fill zero arange linspace
    scalar_tensor randn rand randint randperm randn_like rand_like normal uniform bernoulli
    multinomial scatter index_put index_fill slice_scatter select_scatter resize set
    searchsorted one_hot triu tril
    """.split()
    )
)

LOOKUPS = set("embedding index index_select gather".split())

# Uses of a parameter other than as the weight of a synapse or norm: a learned gain costs a
# multiply-accumulate per element; a learned shift is free, like a bias.
GAINS = set("mul div".split())
SHIFTS = set("add sub".split())

# The result contains exactly the values of the inputs.
SAME_SET_OF_VALUES = {"cat", "stack", "index_select", "flip", "roll"}
SAME_SET_OF_VALUES |= {name for name in _MOVES if name.startswith("upsample_nearest")}

# The result is real-valued if any input is. If all are spikes, it holds spikes of other sizes:
# sums, averages and scaled spike trains.
MIXTURES = SAME_SET_OF_VALUES | ADDITIONS | _SUMS | _PRODUCTS | {"constant_pad_nd"}
REAL_VALUED = _FUNCTIONS | set(NORMS)


def arithmetic(name: str, arguments: Sequence[Any], out: Any) -> tuple[str, int] | None:
    """Return the kind of an operation's element-by-element arithmetic, and its elements.

    The kind is "addition", "scaling" (by one number), "multiplication", "function" or "other:
    NAME". Return None for operations that only move, compare, clamp or create data.

    Example:
        >>> import torch
        >>> x = torch.ones(2, 3)
        >>> arithmetic("mul", [x, 0.5], x), arithmetic("mul", [x, x], x), arithmetic("cat", [x], x)
        (('scaling', 6), ('multiplication', 6), None)
    """
    if name in _MOVES:
        return None
    made = _elements(out)
    if name in ADDITIONS:
        return "addition", made
    if name in _SUMS:
        return "addition", _elements(arguments[0])
    if name in _PRODUCTS:
        operands = [a.numel() if isinstance(a, Tensor) else 1 for a in arguments[:2]]
        return ("scaling" if min(operands) == 1 else "multiplication"), made
    return ("function" if name in _FUNCTIONS else f"other: {name}"), made


def _elements(value: Any) -> int:
    if isinstance(value, list | tuple):
        value = value[0] if value else None
    return value.numel() if isinstance(value, Tensor) else 0
