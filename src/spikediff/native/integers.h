/* Vectors of 32-bit integers, and the products of bytes that they sum: exact in any order. */
#ifndef INTEGERS_H
#define INTEGERS_H
#include <string.h>
#include "spikediff.h"

typedef int32_t ints __attribute__((vector_size(4 * VEC_LANES)));
typedef int32_t loose_ints __attribute__((vector_size(4 * VEC_LANES), aligned(4), may_alias));
typedef int8_t bytes __attribute__((vector_size(4 * VEC_LANES)));
typedef int16_t shorts __attribute__((vector_size(4 * VEC_LANES)));
typedef uint8_t lane_bytes __attribute__((vector_size(VEC_LANES)));
typedef uint8_t loose_lane_bytes __attribute__((vector_size(VEC_LANES), aligned(1), may_alias));

#define LOAD_INTS(p) ((ints)*(const loose_ints *)(p))
#define STORE_INTS(p, v) (*(loose_ints *)(p) = (loose_ints)(v))
static INLINE ints fill_ints(int32_t x) { return (ints){0} + x; }

/* Four bytes as a number. */
static INLINE int32_t quad_at(const void *at) {
  int32_t quad;
  memcpy(&quad, at, sizeof(quad));
  return quad;
}

/* Lane i of a sum grows by the products of bytes 4 i ... 4 i + 3: `unsigned_` of 0 ... 127 by signed
 * ones in `dot_small`, of 0 ... 255 in `dot_any`. 16-bit sums of two products hold the former. */
#if defined(__AVX512VNNI__)
static INLINE ints dot_any(ints sum, ints unsigned_, ints signed_) {
  return (ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)unsigned_, (__m512i)signed_);
}
static INLINE ints dot_small(ints sum, ints unsigned_, ints signed_) {
  return dot_any(sum, unsigned_, signed_);
}
#elif defined(__AVX512BW__) || defined(__AVX2__)
#if defined(__AVX512BW__)
#define WIDE __m512i
#define MADD_BYTES _mm512_maddubs_epi16
#define MADD_SHORTS _mm512_madd_epi16
#define FILL_SHORTS _mm512_set1_epi16
#else
#define WIDE __m256i
#define MADD_BYTES _mm256_maddubs_epi16
#define MADD_SHORTS _mm256_madd_epi16
#define FILL_SHORTS _mm256_set1_epi16
#endif
static INLINE ints dot_small(ints sum, ints unsigned_, ints signed_) {
  const WIDE pairs = MADD_BYTES((WIDE)unsigned_, (WIDE)signed_);
  return sum + (ints)MADD_SHORTS(pairs, FILL_SHORTS(1));
}
static INLINE ints dot_any(ints sum, ints unsigned_, ints signed_) {
  const ints even = signed_ & 0x00ff00ff;
  return dot_small(dot_small(sum, unsigned_, even), unsigned_, signed_ ^ even);
}
#else
static INLINE ints dot_any(ints sum, ints unsigned_, ints signed_) {
  const bytes a = (bytes)unsigned_, b = (bytes)signed_;
  for (int i = 0; i < VEC_LANES; i++)
    for (int j = 4 * i; j < 4 * i + 4; j++) sum[i] += (int32_t)(uint8_t)a[j] * b[j];
  return sum;
}
static INLINE ints dot_small(ints sum, ints unsigned_, ints signed_) {
  return dot_any(sum, unsigned_, signed_);
}
#endif

/* The same of two 16-bit numbers a lane. */
static INLINE ints dot_shorts(ints sum, ints x, ints y) {
#if defined(__AVX512BW__)
  return sum + (ints)_mm512_madd_epi16((__m512i)x, (__m512i)y);
#elif defined(__AVX2__)
  return sum + (ints)_mm256_madd_epi16((__m256i)x, (__m256i)y);
#else
  const shorts a = (shorts)x, b = (shorts)y;
  for (int i = 0; i < VEC_LANES; i++)
    sum[i] += (int32_t)a[2 * i] * b[2 * i] + (int32_t)a[2 * i + 1] * b[2 * i + 1];
  return sum;
#endif
}

/* Lists of quads: which four channels of a pixel changed, and by how much. The quads of a row of
 * pixels lie one behind the other, as column * quads + quad, so that what a row of taps sees is one
 * piece. `starts` and `sums` (of all changes) are those before every column. */
#define LISTED 16 /* that are written at a time; a row has room for so many more */

typedef struct {
  int32_t *quads, *changes; /* [rows][columns * quads + LISTED] */
  int32_t *starts, *sums;   /* [rows][columns + 1] */
} lists;

/* List a pixel's quads that are not what they were before (NULL: silence); return how many. */
static INLINE int32_t list_quads(const uint8_t *now, const uint8_t *before, int32_t quads, int32_t first,
                                 int32_t *which, int32_t *changes, int32_t *sum) {
  int32_t n = 0;
#if defined(__AVX512BW__)
  ints total = {0};
  const ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  for (int32_t q = 0; q < quads; q += LISTED) {
    const __mmask16 there = quads - q < LISTED ? (__mmask16)((1 << (quads - q)) - 1) : 0xffff;
    const __m512i x = _mm512_maskz_loadu_epi32(there, now + 4 * q);
    __m512i change = x;
    if (before) change = _mm512_sub_epi8(x, _mm512_maskz_loadu_epi32(there, before + 4 * q));
    const __mmask16 changed = _mm512_test_epi32_mask(change, change);
    const __m512i index = (__m512i)(lane + (first + q));
    _mm512_storeu_si512(which + n, _mm512_maskz_compress_epi32(changed, index));
    _mm512_storeu_si512(changes + n, _mm512_maskz_compress_epi32(changed, change));
    total = dot_small(total, fill_ints(0x01010101), (ints)change);
    n += __builtin_popcount(changed);
  }
  *sum += _mm512_reduce_add_epi32((__m512i)total);
#else
  for (int32_t q = 0; q < quads; q++) {
    int8_t change[4];
    for (int i = 0; i < 4; i++) {
      change[i] = (int8_t)(now[4 * q + i] - (before ? before[4 * q + i] : 0));
      *sum += change[i];
    }
    which[n] = first + q;
    changes[n] = quad_at(change);
    n += changes[n] != 0;
  }
#endif
  return n;
}
#endif
