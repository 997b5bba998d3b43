/* The weights of an event-driven synapse: from torch's channels-last kernel and back.
 *
 * torch [out, taps, in] -> blocks [ceil(out / BLOCK), taps, in, BLOCK], and the gradient back from
 * blocks of HALF_BLOCK: a row of weights of one
 * input channel lies together. Transposed in tiles of TILE input channels, which the cache holds.
 */
#include <string.h>
#include "spikediff.h"

#define TILE 16

EXPORT void weights_to_blocks(const float *kernel, float *blocks, int64_t out, int64_t taps,
                              int64_t in, int threads) {
  const int64_t count = (out + BLOCK - 1) / BLOCK;
  (void)threads;
#pragma omp parallel for schedule(static) collapse(2) num_threads(threads) if (threads > 1)
  for (int64_t b = 0; b < count; b++)
    for (int64_t tap = 0; tap < taps; tap++) {
      float *rows = blocks + (b * taps + tap) * in * BLOCK;
      const int64_t left = out - b * BLOCK < BLOCK ? out - b * BLOCK : BLOCK;
      if (left < BLOCK) memset(rows, 0, sizeof(float) * (size_t)(in * BLOCK));
      for (int64_t c0 = 0; c0 < in; c0 += TILE) {
        const int64_t end = c0 + TILE < in ? c0 + TILE : in;
        for (int64_t k = 0; k < left; k++) {
          const float *from = kernel + ((b * BLOCK + k) * taps + tap) * in;
          for (int64_t c = c0; c < end; c++) rows[c * BLOCK + k] = from[c];
        }
      }
    }
}

EXPORT void weights_from_blocks(const float *blocks, float *kernel, int64_t out, int64_t taps,
                                int64_t in, int threads) {
  (void)threads;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t b = 0; b < (out + HALF_BLOCK - 1) / HALF_BLOCK; b++)
    for (int64_t tap = 0; tap < taps; tap++) {
      const float *rows = blocks + (b * taps + tap) * in * HALF_BLOCK;
      const int64_t left = out - b * HALF_BLOCK < HALF_BLOCK ? out - b * HALF_BLOCK : HALF_BLOCK;
      for (int64_t c0 = 0; c0 < in; c0 += TILE) {
        const int64_t end = c0 + TILE < in ? c0 + TILE : in;
        for (int64_t k = 0; k < left; k++) {
          float *to = kernel + ((b * HALF_BLOCK + k) * taps + tap) * in;
          for (int64_t c = c0; c < end; c++) to[c] = rows[c * HALF_BLOCK + k];
        }
      }
    }
}
