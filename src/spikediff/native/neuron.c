/* Integrate-and-fire neurons over a spiking window: forward, packed forward, backward.
 *
 * The equations are those of spikediff/neurons/dynamics.py, operation by operation, so that the
 * spikes are those of the reference bit for bit (compile with -ffp-contract=off: what is fused is
 * fused by hand, where torch fuses it).
 *
 * Neurons do not meet, so the layout does not matter: T windows of N values, step after step. They
 * are worked on in blocks of LANES, whose membranes stay in the first cache for the whole window;
 * the backward pass charges them again instead of reading what the forward pass could have saved.
 * Loops of a constant number of lanes over distinct arrays are what compilers turn into vectors.
 */
#include <math.h>
#include <stdint.h>
#include <stddef.h>
#include "spikediff.h"

#define LANES 64

/* What tells these sources from others (build.py); the loader refuses a library of older ones. */
EXPORT uint32_t spikediff_fingerprint(void) { return FINGERPRINT; }

typedef struct {
  float decay, gain, rest; /* u = rest + decay (v - rest) + gain I */
  float threshold, fire_at; /* fires at u >= fire_at, the next float above a strict threshold */
  float keep, shift;       /* a neuron that fired goes on from keep * u + shift */
  float reset_path;        /* 1 where the gradient goes through the reset, too */
  float width, height, centre;
} constants;

static constants prepare(const neuron_options *o) {
  constants k;
  k.decay = o->decay, k.gain = o->gain, k.rest = o->rest, k.threshold = o->threshold;
  k.fire_at = o->strict ? nextafterf(o->threshold, INFINITY) : o->threshold;
  k.keep = o->soft ? 1.0f : 0.0f, k.shift = o->soft ? -o->threshold : o->reset;
  k.reset_path = o->detach_reset ? 0.0f : 1.0f;
  k.width = o->width, k.height = o->height, k.centre = o->centre;
  return k;
}

/* `fused` is the charge without a rest potential by a decay that is a number: torch does it in one
 * rounding. By a learnt decay it takes two. */
static INLINE float charge(float v, float current, constants k, int fused) {
  if (fused) return FMA(k.decay, v, current);
  float leaked = k.rest + k.decay * (v - k.rest);
  return leaked + k.gain * current;
}

static INLINE float after_reset(float u, float spike, constants k) {
  float fired = u * k.keep + k.shift;
  return spike > 0.0f ? fired : u;
}

/* u - u is 0 for a finite membrane and NaN otherwise, which no comparison would let through. */
static INLINE float fire(float u, constants k) { return (u >= k.fire_at ? 1.0f : 0.0f) + (u - u); }

/* ---- surrogates: g(z) at z = u - threshold; spikediff/neurons/surrogate.py ---- */

/* exp(x) for x <= 0: 2^n by the exponent's bits, the rest by a polynomial of degree 6. */
static INLINE float exp_of_negative(float x) {
  x = x < -87.0f ? -87.0f : x;
  float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f; /* rounds to the nearest integer */
  float r = FMA(n, -0.693359375f, x);
  r = FMA(n, 2.12194440e-4f, r);
  float p = FMA(FMA(FMA(FMA(FMA(1.9875691e-4f, r, 1.3981999e-3f), r, 8.3334519e-3f), r,
                        4.1665795e-2f), r, 1.6666665e-1f), r, 5.0000001e-1f);
  p = FMA(p, r * r, r + 1.0f);
  const float whole = n > -127.0f ? n : 0.0f; /* NaN is no integer; p carries it on */
  union { int32_t i; float f; } two_to_n = {.i = ((int32_t)whole + 127) << 23};
  return p * two_to_n.f;
}

static INLINE float slope_of(float z, constants k, int surrogate) {
  if (surrogate == ATAN) {
    float q = 1.57079632679f * k.width * z;
    return k.width * 0.5f / (1.0f + q * q);
  }
  if (surrogate == SIGMOID) {
    float e = exp_of_negative(-fabsf(k.width * z));
    return k.width * e / ((1.0f + e) * (1.0f + e));
  }
  if (surrogate == RECTANGULAR) return fabsf(z - k.centre) < k.width * 0.5f ? k.height : 0.0f;
  float t = 1.0f - fabsf(z) / k.width;
  return (t > 0.0f ? t : 0.0f) * k.height;
}

/* ---- forward ---- */

static INLINE void start(float *v, const float *v_first, ptrdiff_t i0, int n, float v_init) {
  for (int i = 0; i < n; i++) v[i] = v_first ? v_first[i0 + i] : v_init;
}

static INLINE void advance(const float *restrict current, float *restrict spikes, float *restrict v,
                           int n, constants k, int fused) {
  for (int i = 0; i < n; i++) {
    float u = charge(v[i], current[i], k, fused);
    float s = fire(u, k);
    spikes[i] = s;
    v[i] = after_reset(u, s, k);
  }
}

static INLINE void forward_range(const float *current, float *spikes, const float *v_first,
                                 float *v_last, int64_t steps, int64_t size, ptrdiff_t first,
                                 ptrdiff_t end, const neuron_options *o, int fused) {
  const constants k = prepare(o);
  for (ptrdiff_t i0 = first; i0 < end; i0 += LANES) {
    float v[LANES];
    int n = end - i0 < LANES ? (int)(end - i0) : LANES;
    start(v, v_first, i0, n, o->v_init);
    for (int64_t t = 0; t < steps; t++) {
      if (n == LANES) advance(current + t * size + i0, spikes + t * size + i0, v, LANES, k, fused);
      else advance(current + t * size + i0, spikes + t * size + i0, v, n, k, fused);
    }
    if (v_last) for (int i = 0; i < n; i++) v_last[i0 + i] = v[i];
  }
}

/* The chunk that a thread takes: a few pages, so that two threads do not share a cache line. */
#define CHUNK (64 * LANES)

EXPORT void neuron_forward(const float *current, float *spikes, const float *v_first, float *v_last,
                           int64_t steps, int64_t size, const neuron_options *o, int threads) {
  const int fused = o->fused;
  (void)threads;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && size > 4 * CHUNK)
  for (int64_t first = 0; first < size; first += CHUNK) {
    ptrdiff_t end = first + CHUNK < size ? first + CHUNK : size;
    if (fused) forward_range(current, spikes, v_first, v_last, steps, size, first, end, o, 1);
    else forward_range(current, spikes, v_first, v_last, steps, size, first, end, o, 0);
  }
}

/* ---- forward, straight to bits over channels ---- */

static INLINE uint64_t bits_of(const float *spikes) {
  uint64_t word = 0;
  for (int byte = 0; byte < 8; byte++) word |= (uint64_t)byte_of(spikes + 8 * byte) << (8 * byte);
  return word;
}

/* The words of one pixel at every step; how many channels fire, summed over groups of GROUP steps:
 * the work that an event-driven synapse will have with them. `strange` is set where a membrane is
 * not finite, which bits cannot say; such a membrane stays so to the end of the window. */
static INLINE int64_t pixel_words(const float *current, uint64_t *words, int64_t steps,
                                  int64_t pixels, int64_t channels, int64_t pixel,
                                  const neuron_options *o, constants k, int fused, int *strange) {
  const int64_t per_pixel = (channels + 63) / 64;
  int64_t active = 0;
  for (int64_t word = 0; word < per_pixel; word++) {
    float v[LANES], spikes[LANES];
    uint64_t any = 0;
    int n = channels - 64 * word < LANES ? (int)(channels - 64 * word) : LANES;
    for (int i = 0; i < LANES; i++) v[i] = o->v_init, spikes[i] = 0.0f;
    for (int64_t t = 0; t < steps; t++) {
      const float *at = current + (t * pixels + pixel) * channels + 64 * word;
      if (n == LANES) advance(at, spikes, v, LANES, k, fused);
      else advance(at, spikes, v, n, k, fused);
      uint64_t bits = bits_of(spikes);
      words[(t * pixels + pixel) * per_pixel + word] = bits;
      any = (t % GROUP ? any : 0) | bits;
      if (t % GROUP == GROUP - 1 || t == steps - 1) active += __builtin_popcountll(any);
    }
    int finite = 1;
    for (int i = 0; i < LANES; i++) finite &= v[i] - v[i] == 0.0f;
    *strange |= !finite;
  }
  return active;
}

/* Returns -1 where a membrane is not finite. */
EXPORT int64_t neuron_forward_packed(const float *current, uint64_t *words, int64_t steps,
                                     int64_t pixels, int64_t channels, const neuron_options *o,
                                     int threads) {
  const int fused = o->fused;
  const constants k = prepare(o);
  int64_t active = 0;
  int strange = 0;
  (void)threads;
#pragma omp parallel for schedule(static) reduction(+ : active) reduction(| : strange) \
    num_threads(threads) if (threads > 1 && pixels * channels > 4 * CHUNK)
  for (int64_t pixel = 0; pixel < pixels; pixel++)
    active += fused ? pixel_words(current, words, steps, pixels, channels, pixel, o, k, 1, &strange)
                    : pixel_words(current, words, steps, pixels, channels, pixel, o, k, 0, &strange);
  return strange ? -1 : active;
}

/* ---- backward ---- */

static INLINE void recharge(const float *restrict current, float *restrict membrane,
                            float *restrict v, int n, constants k, int fused) {
  for (int i = 0; i < n; i++) {
    float u = charge(v[i], current[i], k, fused);
    membrane[i] = u;
    v[i] = after_reset(u, u >= k.fire_at ? 1.0f : 0.0f, k);
  }
}

/* dL/du[n] = g ds[n] + dv[n]/du[n] dL/dv[n];  dL/dv[n-1] = decay dL/du[n] */
static INLINE void retreat(const float *restrict membrane, const float *restrict grad_spikes,
                           float *restrict grad_current, float *restrict grad_u,
                           float *restrict grad_v, int n, constants k, int surrogate) {
  for (int i = 0; i < n; i++) {
    float u = membrane[i], slope = slope_of(u - k.threshold, k, surrogate);
    float s = fire(u, k);
    float jump = k.shift + (k.keep - 1.0f) * u;
    float left = 1.0f - s * (1.0f - k.keep) + k.reset_path * jump * slope;
    grad_u[i] = slope * grad_spikes[i] + left * grad_v[i];
    grad_current[i] = k.gain * grad_u[i];
    grad_v[i] = k.decay * grad_u[i];
  }
}

/* Sum of dL/du[n] (v[n-1] - rest - I[n]) over a block, I only where the input decays too. */
static INLINE double decay_share(const float *grad_u, const float *current, const float *v_before,
                                 int n, constants k, float input_share) {
  double sum = 0.0;
  for (int i = 0; i < n; i++) {
    float du = v_before[i] - k.rest - input_share * current[i];
    sum += (double)grad_u[i] * du;
  }
  return sum;
}

static INLINE double backward_block(const float *current, const float *grad_spikes,
                                    float *grad_current, float *scratch, int64_t steps,
                                    int64_t size, ptrdiff_t i0, int n, const neuron_options *o,
                                    constants k, int fused, int surrogate, int with_decay) {
  float v[LANES], grad_u[LANES], grad_v[LANES], before[LANES];
  double sum = 0.0;
  for (int i = 0; i < n; i++) v[i] = o->v_init, grad_v[i] = 0.0f;
  for (int64_t t = 0; t < steps; t++)
    recharge(current + t * size + i0, scratch + t * LANES, v, n, k, fused);
  for (int64_t t = steps - 1; t >= 0; t--) {
    const float *u = scratch + t * LANES;
    const ptrdiff_t at = t * size + i0;
    retreat(u, grad_spikes + at, grad_current + at, grad_u, grad_v, n, k, surrogate);
    if (!with_decay) continue;
    for (int i = 0; i < n; i++) {
      float last = t > 0 ? u[i - LANES] : 0.0f;
      before[i] = t > 0 ? after_reset(last, last >= k.fire_at ? 1.0f : 0.0f, k) : o->v_init;
    }
    sum += decay_share(grad_u, current + at, before, n, k, (float)o->decay_input);
  }
  return sum;
}

static INLINE double backward_range(const float *current, const float *grad_spikes,
                                    float *grad_current, float *scratch, int64_t steps,
                                    int64_t size, ptrdiff_t first, ptrdiff_t end,
                                    const neuron_options *o, int fused, int surrogate,
                                    int with_decay) {
  const constants k = prepare(o);
  double sum = 0.0;
  ptrdiff_t i0 = first;
  for (; i0 + LANES <= end; i0 += LANES)
    sum += backward_block(current, grad_spikes, grad_current, scratch, steps, size, i0, LANES, o, k,
                          fused, surrogate, with_decay);
  if (i0 < end)
    sum += backward_block(current, grad_spikes, grad_current, scratch, steps, size, i0,
                          (int)(end - i0), o, k, fused, surrogate, with_decay);
  return sum;
}

#define CASE(FUSED, SURROGATE)                                                                    \
  if (fused == FUSED && o->surrogate == SURROGATE)                                                \
    return with_decay ? backward_range(current, grad_spikes, grad_current, scratch, steps, size,  \
                                       first, end, o, FUSED, SURROGATE, 1)                        \
                      : backward_range(current, grad_spikes, grad_current, scratch, steps, size,  \
                                       first, end, o, FUSED, SURROGATE, 0);

static double backward_chunk(const float *current, const float *grad_spikes, float *grad_current,
                             float *scratch, int64_t steps, int64_t size, ptrdiff_t first,
                             ptrdiff_t end, const neuron_options *o, int with_decay) {
  const int fused = o->fused;
  CASE(1, ATAN) CASE(1, SIGMOID) CASE(1, RECTANGULAR) CASE(1, TRIANGULAR)
  CASE(0, ATAN) CASE(0, SIGMOID) CASE(0, RECTANGULAR) CASE(0, TRIANGULAR)
  return NAN;
}

EXPORT double neuron_backward(const float *current, const float *grad_spikes, float *grad_current,
                              int64_t steps, int64_t size, const neuron_options *o, int with_decay,
                              int threads) {
  double sum = 0.0;
  (void)threads;
#pragma omp parallel for schedule(static) reduction(+ : sum) num_threads(threads) \
    if (threads > 1 && size > 4 * CHUNK)
  for (int64_t first = 0; first < size; first += CHUNK) {
    float scratch[MAX_STEPS * LANES];
    ptrdiff_t end = first + CHUNK < size ? first + CHUNK : size;
    sum += backward_chunk(current, grad_spikes, grad_current, scratch, steps, size, first, end, o,
                          with_decay);
  }
  return sum;
}
