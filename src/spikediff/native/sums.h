/* What the sums of a synapse share, over float32 weights and over whole numbers. */
#ifndef SUMS_H
#define SUMS_H
#include "synapse.h"

/* Rows of weights [blocks, taps_y, taps_x, channels, block], and what the sums become currents by:
 * current = bias + scale * sum, where the weights are whole numbers of `bits`; floats (32) are not
 * scaled. */
typedef struct {
  const void *rows;
  const float *scales, *bias; /* [blocks * block] */
  int bits;
} synapse_weights;

/* The lists of a tile of output pixels: rows of weights [pixel][most], starts [pixel][STARTS]. */
typedef struct {
  uint32_t *rows;
  int32_t *starts;
  int64_t most;
} gathered;

/* Output channels of a block: floats fill VECS vectors, whole numbers ROW_VECS. */
#define ROW_VECS 2
static INLINE int64_t block_of(int bits) {
  return bits == 32 ? BLOCK : ROW_VECS * (int64_t)sizeof(vec) * 8 / bits;
}

/* One block of output channels of a tile of `pixels` output pixels; weights of 8 or 16 bits. */
void sum_integers(const gathered *tile, int64_t pixels, const synapse_weights *weights, float *out,
                  const geometry *g, int64_t block, int steps);
#endif
