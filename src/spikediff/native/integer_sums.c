/* Sums over weights that are whole numbers of 8 or 16 bits: exact, and a quarter or half the bytes.
 *
 * A weight w is kept as w + 2^(bits - 1), which is not negative. A word of twice the width then
 * holds two weights, and two sums take three operations: `all` adds the words as they are, `odd`
 * adds their upper halves, and the lower halves sum to all - odd * 2^bits, modulo the word. Twice
 * the width is enough for MOST_ROWS rows at a time; what was added to the weights is taken off
 * again, and the sums of the patterns are added to the steps as int32.
 *
 * So byte j of a 32-bit lane i ends in lane i of vector j: the weights of a block are laid out for
 * that (spikediff/events/weights.py).
 */
#include <string.h>
#include "sums.h"

typedef uint8_t loose_bytes __attribute__((vector_size(sizeof(vec)), aligned(1), may_alias));
typedef uint16_t words16 __attribute__((vector_size(sizeof(vec))));
typedef uint32_t words32 __attribute__((vector_size(sizeof(vec))));
typedef int32_t lanes32 __attribute__((vector_size(sizeof(vec))));
typedef int32_t loose_lanes32 __attribute__((vector_size(sizeof(vec)), aligned(4), may_alias));

#define MOST_ROWS 256 /* of 8 bits: 256 * 255 < 2^16; of 16 bits there could be 65,536 */
#define MOST_BLOCK (ROW_VECS * sizeof(vec))

/* sums[0 ... 3] of a vector of bytes, over rows of `stride` bytes. */
static INLINE void add_bytes(const uint32_t *row, const uint32_t *end, const uint8_t *weights,
                             int vecs, lanes32 sums[ROW_VECS][4]) {
  words16 all[ROW_VECS], odd[ROW_VECS];
  const uint16_t added = (uint16_t)((end - row) << 7);
  for (int v = 0; v < vecs; v++) all[v] = odd[v] = (words16){0};
  for (; row < end; row++)
    for (int v = 0; v < vecs; v++) {
      const loose_bytes *at = (const loose_bytes *)(weights + (size_t)*row * MOST_BLOCK);
      const words16 w = (words16)at[v];
      all[v] += w;
      odd[v] += w >> 8;
    }
  for (int v = 0; v < vecs; v++) {
    const lanes32 even = (lanes32)(all[v] - (odd[v] << 8) - added);
    const lanes32 rest = (lanes32)(odd[v] - added);
    sums[v][0] = (lanes32)((words32)even << 16) >> 16;
    sums[v][1] = (lanes32)((words32)rest << 16) >> 16;
    sums[v][2] = even >> 16;
    sums[v][3] = rest >> 16;
  }
}

/* sums[0, 1] of a vector of 16-bit words. */
static INLINE void add_shorts(const uint32_t *row, const uint32_t *end, const uint8_t *weights,
                              int vecs, lanes32 sums[ROW_VECS][4]) {
  words32 all[ROW_VECS], odd[ROW_VECS];
  const uint32_t added = (uint32_t)(end - row) << 15;
  for (int v = 0; v < vecs; v++) all[v] = odd[v] = (words32){0};
  for (; row < end; row++)
    for (int v = 0; v < vecs; v++) {
      const size_t at = (size_t)*row * MOST_BLOCK + v * sizeof(vec);
      const words32 w = (words32)*(const loose_bytes *)(weights + at);
      all[v] += w;
      odd[v] += w >> 16;
    }
  for (int v = 0; v < vecs; v++) {
    sums[v][0] = (lanes32)(all[v] - (odd[v] << 16) - added);
    sums[v][1] = (lanes32)(odd[v] - added);
  }
}

/* The sums of one output pixel at `steps` spiking steps. */
static INLINE void sum_pixel(const uint32_t *rows, const int32_t *starts, const uint8_t *weights,
                             int bits, int steps, int vecs, int32_t sums[GROUP][MOST_BLOCK]) {
  const int parts = 32 / bits;
  for (int t = 0; t < steps; t++) memset(sums[t], 0, sizeof(sums[t]));
  for (int p = 1; p < 1 << steps; p++) {
    const uint32_t *row = rows + starts[p], *end = rows + starts[p + 1];
    while (row < end) {
      const uint32_t *until = end - row < MOST_ROWS ? end : row + MOST_ROWS;
      lanes32 added[ROW_VECS][4];
      if (bits == 8) add_bytes(row, until, weights, vecs, added);
      else add_shorts(row, until, weights, vecs, added);
      for (int t = 0; t < steps; t++)
        if (p >> t & 1)
          for (int v = 0; v < vecs; v++)
            for (int part = 0; part < parts; part++)
              *(loose_lanes32 *)(sums[t] + (v * parts + part) * VEC_LANES) += added[v][part];
      row = until;
    }
  }
}

static INLINE void sum_tile(const gathered *tile, int64_t pixels, const synapse_weights *weights,
                            float *out, const geometry *g, int64_t block, int bits, int steps,
                            int vecs) {
  const int64_t out_step = g->images * g->out_height * g->out_width * g->out_channels;
  const int64_t size = block_of(bits), first = block * size, left = g->out_channels - first;
  const int64_t many = left < size ? left : size;
  const uint8_t *rows = weights->rows;
  rows += block * g->taps_y * g->taps_x * g->channels * (int64_t)MOST_BLOCK;
  const float *scales = weights->scales + first, *bias = weights->bias + first;
  for (int64_t pixel = 0; pixel < pixels; pixel++) {
    int32_t sums[GROUP][MOST_BLOCK];
    sum_pixel(tile->rows + pixel * tile->most, tile->starts + pixel * STARTS, rows, bits, steps,
              vecs, sums);
    for (int t = 0; t < steps; t++) {
      float *at = out + t * out_step + pixel * g->out_channels + first;
      for (int64_t c = 0; c < many; c++) at[c] = bias[c] + scales[c] * (float)sums[t][c];
    }
  }
}

void sum_integers(const gathered *tile, int64_t pixels, const synapse_weights *weights, float *out,
                  const geometry *g, int64_t block, int steps) {
  const int64_t size = block_of(weights->bits), left = g->out_channels - block * size;
  const int vecs = left > size / ROW_VECS ? ROW_VECS : 1;
#define CASE(BITS, N, V)                                                                          \
  if (weights->bits == BITS && steps == N && vecs == V)                                           \
    sum_tile(tile, pixels, weights, out, g, block, BITS, N, V);
#define CASES(N) CASE(8, N, 1) CASE(8, N, 2) CASE(16, N, 1) CASE(16, N, 2)
  CASES(1) CASES(2) CASES(3) CASES(4)
#undef CASES
#undef CASE
}
