"""The programs of `triton_kernel`; importing this file needs Triton.

The equations are those of `spikediff.neurons.dynamics`, operation by operation. They have to be
compiled with `enable_fp_fusion=False`: what is fused is fused by hand, where torch's CUDA kernels
fuse it (`add` with `alpha`), and nothing else is.

One program computes a block of neurons through the whole window. The steps are unrolled, so that
the membranes of a window stay in registers: the backward pass charges them again and walks back
over them without any memory of its own. Pointers walk from step to step, so that no offset is too
large for 32 bits.
"""

import triton
import triton.language as tl


@triton.jit
def _block(size, BLOCK: tl.constexpr):
    """Return the offsets of this program's neurons in a step [BLOCK], and which exist."""
    offsets = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return offsets, offsets < size


@triton.jit
def _multipliers(decay, gain, LEARNT: tl.constexpr, DECAY_INPUT: tl.constexpr):
    """Return decay and gain; a learnt decay is a pointer, so that the host need not wait for it."""
    if LEARNT:
        decay = tl.load(decay)
        if DECAY_INPUT:
            gain = 1.0 - decay
    return decay, gain


@triton.jit
def _charge(v, current, decay, gain, rest, FUSED: tl.constexpr):
    """Return the membranes u [BLOCK] before any spike."""
    if FUSED:
        u = tl.fma(v, tl.zeros_like(v) + decay, current)
    else:
        u = rest + decay * (v - rest) + gain * current
    return u


@triton.jit
def _fires(u, threshold, STRICT: tl.constexpr):
    """Return whether the neurons fire [BLOCK]."""
    if STRICT:
        fired = u > threshold
    else:
        fired = u >= threshold
    return fired


@triton.jit
def _spikes(u, fired):
    """Return 0 or 1, and NaN where the membrane is not finite [BLOCK]."""
    return tl.where(fired, 1.0, 0.0) + (u - u)


@triton.jit
def _reset(u, fired, threshold, v_reset, SOFT: tl.constexpr):
    """Return the membranes v [BLOCK] that the next step starts from."""
    if SOFT:
        v = tl.where(fired, u - threshold, u)
    else:
        v = tl.where(fired, v_reset, u)
    return v + (u - u)  # NaN where u is not finite


@triton.jit
def _slope(z, width, height, centre, SURROGATE: tl.constexpr):
    """Return the surrogate g(z) [BLOCK]; `triton_kernel` says what width and height are."""
    if SURROGATE == "atan":
        q = z * width
        g = 1.0 / (q * q + 1.0) * height
    elif SURROGATE == "sigmoid":
        s = tl.sigmoid(z * width)
        g = (s - s * s) * height
    elif SURROGATE == "rectangular":
        g = tl.where(tl.abs(z - centre) < width, height, 0.0)
    else:
        tl.static_assert(SURROGATE == "triangular")
        g = tl.maximum(1.0 - tl.abs(z) * width, 0.0) * height
    return g


@triton.jit
def _kept(u, fired, slope, threshold, v_reset, SOFT: tl.constexpr, DETACH_RESET: tl.constexpr):
    """Return dv/du [BLOCK]: what is left of the membrane, and the path through the spike."""
    if SOFT:
        kept = 1.0 + (u - u)
        if not DETACH_RESET:
            kept = kept - threshold * slope
    else:
        kept = 1.0 - _spikes(u, fired)
        if not DETACH_RESET:
            kept = kept + (v_reset - u) * slope
    return kept


@triton.jit
def forward(
    current_at,
    spikes_at,
    v_first_at,
    v_last_at,
    size,
    decay,
    gain,
    rest,
    threshold,
    v_reset,
    v_init,
    STEPS: tl.constexpr,
    LEARNT: tl.constexpr,
    DECAY_INPUT: tl.constexpr,
    FUSED: tl.constexpr,
    SOFT: tl.constexpr,
    STRICT: tl.constexpr,
    FROM_REST: tl.constexpr,
    KEEP_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write the spikes [STEPS, size] and, if they are kept, the membranes after them [size]."""
    offsets, exists = _block(size, BLOCK)
    decay, gain = _multipliers(decay, gain, LEARNT, DECAY_INPUT)
    if FROM_REST:
        v = tl.full((BLOCK,), 0.0, tl.float32) + v_init
    else:
        v = tl.load(v_first_at + offsets, exists, 0.0)
    current_at += offsets
    spikes_at += offsets
    for _ in tl.static_range(STEPS):
        current = tl.load(current_at, exists, 0.0).to(tl.float32)
        u = _charge(v, current, decay, gain, rest, FUSED)
        fired = _fires(u, threshold, STRICT)
        tl.store(spikes_at, _spikes(u, fired).to(spikes_at.dtype.element_ty), exists)
        v = _reset(u, fired, threshold, v_reset, SOFT)
        current_at += size
        spikes_at += size
    if KEEP_LAST:
        tl.store(v_last_at + offsets, v, exists)


@triton.jit
def backward(
    current_at,
    grad_spikes_at,
    grad_at,
    share_at,
    size,
    decay,
    gain,
    rest,
    threshold,
    v_reset,
    v_init,
    width,
    height,
    centre,
    STEPS: tl.constexpr,
    LEARNT: tl.constexpr,
    DECAY_INPUT: tl.constexpr,
    FUSED: tl.constexpr,
    SOFT: tl.constexpr,
    STRICT: tl.constexpr,
    DETACH_RESET: tl.constexpr,
    SURROGATE: tl.constexpr,
    WITH_DECAY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write dL/dI [STEPS, size] of a window from rest, and this program's share of dL/d(decay)."""
    offsets, exists = _block(size, BLOCK)
    decay, gain = _multipliers(decay, gain, LEARNT, DECAY_INPUT)
    rested = tl.full((BLOCK,), 0.0, tl.float32) + v_init
    v = rested
    membranes = ()
    current_at += offsets
    grad_spikes_at += offsets
    grad_at += offsets
    for _ in tl.static_range(STEPS):
        current = tl.load(current_at, exists, 0.0).to(tl.float32)
        u = _charge(v, current, decay, gain, rest, FUSED)
        v = _reset(u, _fires(u, threshold, STRICT), threshold, v_reset, SOFT)
        membranes = membranes + (u,)  # noqa: RUF005 -- Triton does not know `*membranes`
        current_at += size
        grad_spikes_at += size
        grad_at += size
    grad_v = tl.full((BLOCK,), 0.0, tl.float32)
    share = tl.full((BLOCK,), 0.0, tl.float32)
    for n in tl.static_range(STEPS - 1, -1, -1):
        current_at -= size
        grad_spikes_at -= size
        grad_at -= size
        u = membranes[n]
        fired = _fires(u, threshold, STRICT)
        slope = _slope(u - threshold, width, height, centre, SURROGATE)
        kept = _kept(u, fired, slope, threshold, v_reset, SOFT, DETACH_RESET)
        grad_spikes = tl.load(grad_spikes_at, exists, 0.0).to(tl.float32)
        grad_u = slope * grad_spikes + kept * grad_v
        tl.store(grad_at, (gain * grad_u).to(grad_at.dtype.element_ty), exists)
        grad_v = decay * grad_u
        if WITH_DECAY:  # dL/du[n] (v[n-1] - rest - I[n]), I only where the input decays too
            before = rested
            if n > 0:
                last = membranes[n - 1]
                before = _reset(last, _fires(last, threshold, STRICT), threshold, v_reset, SOFT)
            du = before - rest
            if DECAY_INPUT:
                du -= tl.load(current_at, exists, 0.0).to(tl.float32)
            share += grad_u * du
    if WITH_DECAY:
        tl.store(share_at + tl.program_id(0), tl.sum(tl.where(exists, share, 0.0), axis=0))
