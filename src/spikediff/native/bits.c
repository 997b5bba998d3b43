/* Tensors of two values as bits: what a layer saves of its spikes for the backward pass.
 *
 * The values are 0 and one other, told by its bit pattern, so that float32 and both half
 * precisions, and spikes that dropout has scaled, are all alike here.
 */
#include <stdint.h>
#include "spikediff.h"

#define SHARE 65536 /* values that a thread takes at a time: whole words */

/* Pack n values; 0 as soon as one is neither 0 nor the pattern `one`, which is found on the way. */
#define PACK(NAME, TYPE)                                                                          \
  EXPORT int NAME(const TYPE *values, uint64_t *words, int64_t n, TYPE *one, int threads) {       \
    int64_t first = 0;                                                                            \
    while (first < n && values[first] == 0) first++;                                              \
    const TYPE pattern = first < n ? values[first] : 0;                                           \
    int binary = 1;                                                                               \
    (void)threads;                                                                                \
    _Pragma("omp parallel for schedule(static) num_threads(threads) if (threads > 1)")            \
    for (int64_t start = 0; start < n; start += SHARE) {                                          \
      int fits;                                                                                   \
      _Pragma("omp atomic read")                                                                  \
      fits = binary;                                                                              \
      const int64_t end = start + SHARE < n ? start + SHARE : n;                                  \
      for (int64_t at = start; fits && at < end; at += 64) {                                      \
        const int64_t left = end - at < 64 ? end - at : 64;                                       \
        uint64_t word = 0;                                                                        \
        TYPE strange = 0;                                                                         \
        for (int64_t i = 0; i < left; i++) {                                                      \
          const TYPE x = values[at + i];                                                          \
          word |= (uint64_t)(x != 0) << i;                                                        \
          strange |= (TYPE)(x != 0 && x != pattern);                                              \
        }                                                                                         \
        words[at / 64] = word;                                                                    \
        fits = !strange;                                                                          \
      }                                                                                           \
      if (!fits) {                                                                                \
        _Pragma("omp atomic write")                                                               \
        binary = 0;                                                                               \
      }                                                                                           \
    }                                                                                             \
    *one = pattern;                                                                               \
    return binary;                                                                                \
  }

#define UNPACK(NAME, TYPE)                                                                        \
  EXPORT void NAME(const uint64_t *words, TYPE *values, int64_t n, TYPE one, int threads) {       \
    (void)threads;                                                                                \
    _Pragma("omp parallel for schedule(static) num_threads(threads) if (threads > 1)")            \
    for (int64_t at = 0; at < n; at += 64) {                                                      \
      const int64_t left = n - at < 64 ? n - at : 64;                                             \
      const uint64_t word = words[at / 64];                                                       \
      for (int64_t i = 0; i < left; i++) values[at + i] = (word >> i) & 1 ? one : 0;              \
    }                                                                                             \
  }

PACK(bits_pack_32, uint32_t)
PACK(bits_pack_16, uint16_t)
UNPACK(bits_unpack_32, uint32_t)
UNPACK(bits_unpack_16, uint16_t)
