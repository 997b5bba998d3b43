/* What the kernels share: the options of a neuron, and what differs between processors. */
#ifndef SPIKEDIFF_H
#define SPIKEDIFF_H
#include <math.h>
#include <stdint.h>
#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define GROUP 4       /* spiking steps that a synapse computes together */
#define MAX_TAPS 1024 /* of a kernel */
#define MAX_STEPS 128 /* of a window in the backward pass, whose membranes lie on the stack */

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif
#define INLINE inline __attribute__((always_inline))

/* One rounding where the processor has it; a call of the C library would be slow. */
#if defined(__FMA__) || defined(__aarch64__)
#define FMA(a, b, c) __builtin_fmaf(a, b, c)
#else
#define FMA(a, b, c) ((a) * (b) + (c))
#endif

enum { ATAN, SIGMOID, RECTANGULAR, TRIANGULAR };

typedef struct { /* mirrored field by field in library.py */
  float decay, gain, rest, threshold, reset, v_init, width, height, centre;
  int32_t soft, strict, detach_reset, decay_input, fused, surrogate;
} neuron_options;

/* Bit i of the result: whether x[i], of 8 values, is not zero. */
static INLINE unsigned byte_of(const float *x) {
#if defined(__AVX2__)
  __m256 v = _mm256_loadu_ps(x);
  return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_NEQ_UQ));
#else
  unsigned byte = 0;
  for (int i = 0; i < 8; i++) byte |= (unsigned)(x[i] != 0.0f) << i;
  return byte;
#endif
}

/* A vector of floats. */
#if defined(__AVX512F__)
typedef __m512 vec;
#define VEC_LANES 16
#define VEC_LOAD(p) _mm512_loadu_ps(p)
#define VEC_STORE(p, v) _mm512_storeu_ps(p, v)
#define VEC_FILL(x) _mm512_set1_ps(x)
#define VEC_FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#elif defined(__AVX2__)
typedef __m256 vec;
#define VEC_LANES 8
#define VEC_LOAD(p) _mm256_loadu_ps(p)
#define VEC_STORE(p, v) _mm256_storeu_ps(p, v)
#define VEC_FILL(x) _mm256_set1_ps(x)
#define VEC_FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#else
typedef float vec __attribute__((vector_size(16)));
typedef float loose_vec __attribute__((vector_size(16), aligned(4)));
#define VEC_LANES 4
#define VEC_LOAD(p) ((vec)*(const loose_vec *)(p))
#define VEC_STORE(p, v) (*(loose_vec *)(p) = (v))
#define VEC_FILL(x) ((vec){x, x, x, x})
#define VEC_FMA(a, b, c) ((a) * (b) + (c))
#endif
#define VECS 4
#define BLOCK (VECS * VEC_LANES)      /* output channels that a forward pass sums in registers */
#define HALF_BLOCK (2 * VEC_LANES)    /* and of which a backward pass keeps rows in the cache */

static INLINE int thread_number(void) {
#if defined(_OPENMP)
  return omp_get_thread_num();
#else
  return 0;
#endif
}
#endif
