/* Event-driven synapses: a convolution of spikes that adds the weights of what fired.
 *
 * Spikes come as bits over channels, [T, images, H, W, words of 64 channels]. Up to GROUP spiking
 * steps are computed together. For every input pixel, the channels that fire in any of them are
 * listed once, sorted by their pattern over the steps. An output pixel gathers the lists of all its
 * taps, pattern by pattern; then, for each block of output channels, the weights of a pattern are
 * summed in registers, and the sum is added to the steps of the pattern. So a row of weights is read
 * and added once, however many of the steps its channel fires in: the cost is that of the channels
 * that fire at all, an addition each where a dense convolution has a multiply-add per step.
 * The result is a float32 sum over the active weights.
 *
 * Which input pixel a tap of an output pixel reads stands in tables: strides, dilations, padding,
 * transposed convolutions and upsampling differ only there (spikediff/events/kernel_offsets.py).
 */
#include <stdlib.h>
#include <string.h>
#include "spikediff.h"
#include "sums.h"

#define COPIED 16 /* entries that are copied at a time; more than there are does no harm */

/* Gather what an output pixel sees: tap * channels + channel, pattern by pattern. */
static INLINE void gather_pixel(const uint32_t *entries, const int32_t *starts, const geometry *g,
                                const int32_t *row_taps, const int32_t *column_taps, int steps,
                                uint32_t *rows, int32_t *own) {
  uint32_t offsets[MAX_TAPS];
  const uint32_t *lists[MAX_TAPS];
  const int32_t *bounds[MAX_TAPS];
  int taps = 0;
  for (int64_t i = 0; i < g->most_taps_y && row_taps[2 * i] >= 0; i++)
    for (int64_t j = 0; j < g->most_taps_x && column_taps[2 * j] >= 0; j++, taps++) {
      const int64_t pixel = row_taps[2 * i + 1] * g->width + column_taps[2 * j + 1];
      offsets[taps] = (uint32_t)((row_taps[2 * i] * g->taps_x + column_taps[2 * j]) * g->channels);
      lists[taps] = entries + pixel * g->channels;
      bounds[taps] = starts + pixel * STARTS;
    }
  int32_t n = 0;
  for (int p = 1; p < 1 << steps; p++) {
    own[p] = n;
    for (int tap = 0; tap < taps; tap++) {
      const int32_t first = bounds[tap][p], many = bounds[tap][p + 1] - first;
      const uint32_t *from = lists[tap] + first;
      for (int32_t done = 0; done < many; done += COPIED)
        for (int i = 0; i < COPIED; i++)
          rows[n + done + i] = (from[done + i] >> GROUP) + offsets[tap];
      n += many;
    }
  }
  own[1 << steps] = n;
}

/* The sums of one output pixel for `vecs` vectors of output channels at `steps` spiking steps. */
static INLINE void sum_pixel(const uint32_t *rows, const int32_t *starts, const float *weights,
                             const float *bias, int steps, int vecs, float sums[GROUP][BLOCK]) {
  for (int t = 0; t < steps; t++) memcpy(sums[t], bias, sizeof(sums[t]));
  for (int p = 1; p < 1 << steps; p++) {
    const uint32_t *row = rows + starts[p], *end = rows + starts[p + 1];
    if (row == end) continue;
    vec sum[VECS];
    for (int k = 0; k < vecs; k++) sum[k] = VEC_FILL(0.0f);
    for (; row < end; row++)
      for (int k = 0; k < vecs; k++)
        sum[k] += VEC_LOAD(weights + (size_t)*row * BLOCK + k * VEC_LANES);
    for (int t = 0; t < steps; t++)
      if (p >> t & 1)
        for (int k = 0; k < vecs; k++) {
          float *at = sums[t] + k * VEC_LANES;
          VEC_STORE(at, VEC_LOAD(at) + sum[k]);
        }
  }
}

/* One block of output channels of a tile of `pixels` output pixels. */
static INLINE void sum_tile(const gathered *tile, int64_t pixels, const float *weights,
                            const float *bias, float *out, const geometry *g, int64_t block,
                            int steps, int vecs) {
  const int64_t out_step = g->images * g->out_height * g->out_width * g->out_channels;
  const int64_t first = block * BLOCK, left = g->out_channels - first;
  const size_t bytes = sizeof(float) * (size_t)(left < BLOCK ? left : BLOCK);
  weights += block * g->taps_y * g->taps_x * g->channels * BLOCK;
  for (int64_t pixel = 0; pixel < pixels; pixel++) {
    float sums[GROUP][BLOCK];
    sum_pixel(tile->rows + pixel * tile->most, tile->starts + pixel * STARTS, weights, bias + first,
              steps, vecs, sums);
    float *at = out + pixel * g->out_channels + first;
    for (int t = 0; t < steps; t++) memcpy(at + t * out_step, sums[t], bytes);
  }
}

static void sum_floats(const gathered *tile, int64_t pixels, const synapse_weights *weights,
                       float *out, const geometry *g, int64_t block, int steps) {
  const int64_t left = g->out_channels - block * BLOCK;
  const int vecs = left >= BLOCK ? VECS : (int)((left + VEC_LANES - 1) / VEC_LANES);
#define CASE(N, V)                                                                                \
  case VECS * N + V:                                                                              \
    sum_tile(tile, pixels, weights->rows, weights->bias, out, g, block, N, V);                    \
    break;
#define CASES(N) CASE(N, 1) CASE(N, 2) CASE(N, 3) CASE(N, 4)
  switch (VECS * steps + vecs) { CASES(1) CASES(2) CASES(3) CASES(4) } /* so sums are registers */
#undef CASES
#undef CASE
}

/* Rows of output that make a tile: their lists are to fit the second cache beside the weights. */
static int64_t rows_of_tile(const geometry *g, int64_t most) {
  int64_t rows = CHUNK_BYTES / (g->out_width * most * (int64_t)sizeof(uint32_t));
  return rows < 1 ? 1 : rows > g->out_height ? g->out_height : rows;
}

/* Gather, then sum, some rows of one output image. */
static void tile_of_image(const uint32_t *entries, const int32_t *starts,
                          const synapse_weights *weights, float *out, const geometry *g,
                          const int32_t *taps_y, const int32_t *taps_x, gathered *tile, int64_t y0,
                          int64_t y1, int64_t first_block, int64_t last_block, int steps) {
  for (int64_t y = y0; y < y1; y++)
    for (int64_t x = 0; x < g->out_width; x++) {
      const int64_t at = (y - y0) * g->out_width + x;
      gather_pixel(entries, starts, g, taps_y + 2 * g->most_taps_y * y,
                   taps_x + 2 * g->most_taps_x * x, steps, tile->rows + at * tile->most,
                   tile->starts + at * STARTS);
    }
  out += y0 * g->out_width * g->out_channels;
  for (int64_t block = first_block; block < last_block; block++)
    (weights->bits == 32 ? sum_floats : sum_integers)(tile, (y1 - y0) * g->out_width, weights, out,
                                                      g, block, steps);
}

/* Memory of one thread: a gathered tile, and room for a pixel's unsorted list. */
typedef struct {
  gathered tile;
  uint32_t *unsorted;
} workspace;

/* Some images, for one group of spiking steps: list them, then sum. */
static void chunk_of_images(const uint64_t *words, const synapse_weights *weights, float *out,
                            const geometry *g, const int32_t *taps_y, const int32_t *taps_x,
                            uint32_t *entries, int32_t *starts, workspace *spaces, int64_t images,
                            int steps, int threads) {
  const int64_t pixels = g->height * g->width;
  const int64_t out_image = g->out_height * g->out_width * g->out_channels;
  const int64_t block = block_of(weights->bits), blocks = (g->out_channels + block - 1) / block;
  const int64_t rows = rows_of_tile(g, spaces[0].tile.most);
  const int64_t tiles = (g->out_height + rows - 1) / rows;
  /* where there are fewer tiles than threads, threads share a tile's blocks */
  int64_t parts = (threads + images * tiles - 1) / (images * tiles);
  parts = parts > blocks ? blocks : parts;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    workspace *own = spaces + thread_number();
    list_images(words, g, images, steps, entries, own->unsorted, starts);
#pragma omp for schedule(dynamic) collapse(3)
    for (int64_t image = 0; image < images; image++)
      for (int64_t tile = 0; tile < tiles; tile++)
        for (int64_t part = 0; part < parts; part++) {
          const int64_t y0 = tile * rows, y1 = y0 + rows < g->out_height ? y0 + rows : g->out_height;
          tile_of_image(entries + image * pixels * g->channels, starts + image * pixels * STARTS,
                        weights, out + image * out_image, g, taps_y, taps_x, &own->tile, y0, y1,
                        blocks * part / parts, blocks * (part + 1) / parts, steps);
        }
  }
}

/* Take all memory at once; NULL where there is none. */
static workspace *workspaces(const geometry *g, int threads) {
  const int64_t most = g->most_taps_y * g->most_taps_x * g->channels + COPIED;
  const int64_t pixels = rows_of_tile(g, most) * g->out_width;
  const size_t rows = sizeof(uint32_t) * (size_t)(pixels * most);
  const size_t starts = sizeof(int32_t) * (size_t)(pixels * STARTS);
  const size_t unsorted = sizeof(uint32_t) * (size_t)g->channels;
  char *memory = malloc((size_t)threads * (sizeof(workspace) + rows + starts + unsorted));
  if (!memory) return NULL;
  workspace *spaces = (workspace *)memory;
  char *at = memory + (size_t)threads * sizeof(workspace);
  for (int i = 0; i < threads; i++, at += rows + starts + unsorted) {
    spaces[i].tile = (gathered){(uint32_t *)at, (int32_t *)(at + rows), most};
    spaces[i].unsorted = (uint32_t *)(at + rows + starts);
  }
  return spaces;
}

/* words [T, images, H, W, words], weights as in sums.h, by `bits` -> out [T, images, out_height,
 * out_width, out_channels]. 0, or -1: no memory, -2: a geometry that does not fit. */
EXPORT int synapse_forward(const uint64_t *words, const void *rows, int bits, const float *scales,
                           const float *bias, float *out, const geometry *g, const int32_t *taps_y,
                           const int32_t *taps_x, int threads) {
  if (!geometry_fits(g, taps_y, taps_x)) return -2;
  const synapse_weights weights = {rows, scales, bias, bits};
  const int64_t pixels = g->height * g->width, per_pixel = (g->channels + 63) / 64;
  const int64_t out_image = g->out_height * g->out_width * g->out_channels;
  const int64_t many = images_at_a_time(g);
  uint32_t *entries = malloc(sizeof(uint32_t) * (size_t)(many * pixels * g->channels + COPIED));
  int32_t *starts = malloc(sizeof(int32_t) * (size_t)(many * pixels * STARTS));
  workspace *spaces = workspaces(g, threads);
  const int done = entries && starts && spaces;
  for (int64_t t = 0; done && t < g->steps; t += GROUP) {
    const int steps = g->steps - t < GROUP ? (int)(g->steps - t) : GROUP;
    for (int64_t image = 0; image < g->images; image += many) {
      const int64_t images = g->images - image < many ? g->images - image : many;
      const int64_t at = t * g->images + image;
      chunk_of_images(words + at * pixels * per_pixel, &weights, out + at * out_image, g,
                      taps_y, taps_x, entries, starts, spaces, images, steps, threads);
    }
  }
  free(entries);
  free(starts);
  free(spaces);
  return done ? 0 : -1;
}

/* Output channels in a block of packed weights of so many bits. */
EXPORT int synapse_block(int bits) { return (int)block_of(bits); }

/* Lanes of 32 bits in a vector, by which whole numbers are laid out. */
EXPORT int synapse_lanes(void) { return VEC_LANES; }

/* And of the gradient of the weights. */
EXPORT int gradient_block(void) { return HALF_BLOCK; }

/* One word of spikes; *strange counts the values that are neither 0 nor 1. */
static INLINE uint64_t word_of(const float *at, int64_t n, int *strange) {
  uint64_t word = 0;
  int64_t i = 0;
  for (int64_t k = 0; k < n; k++) *strange += at[k] != 0.0f && at[k] != 1.0f;
  for (; i + 8 <= n; i += 8) word |= (uint64_t)byte_of(at + i) << i;
  for (; i < n; i++) word |= (uint64_t)(at[i] != 0.0f) << i;
  return word;
}

/* Channels-last floats [steps, pixels, channels], spikes where not zero -> bits [steps, pixels,
 * words]. Returns the channels that fire at all, summed over pixels and groups of GROUP steps; or -1
 * where only zeros and ones are wanted and there is another value. */
EXPORT int64_t synapse_pack(const float *spikes, uint64_t *words, int64_t steps, int64_t pixels,
                            int64_t channels, int only_binary, int threads) {
  const int64_t per_pixel = (channels + 63) / 64;
  int64_t active = 0;
  int refused = 0;
  (void)threads;
#pragma omp parallel for schedule(static) reduction(+ : active, refused) num_threads(threads) \
    if (threads > 1)
  for (int64_t p = 0; p < pixels; p++) {
    for (int64_t q = 0; q < per_pixel && !refused; q++) {
      const int64_t n = channels - 64 * q < 64 ? channels - 64 * q : 64;
      uint64_t any = 0;
      int strange = 0;
      for (int64_t t = 0; t < steps; t++) {
        const int64_t pixel = t * pixels + p;
        uint64_t word = word_of(spikes + pixel * channels + 64 * q, n, &strange);
        words[pixel * per_pixel + q] = word;
        any = (t % GROUP ? any : 0) | word;
        if (t % GROUP == GROUP - 1 || t == steps - 1) active += __builtin_popcountll(any);
      }
      if (only_binary && strange) refused = 1;
    }
  }
  return refused ? -1 : active;
}

/* Channels of an image that fire at all, summed over pixels and groups of GROUP steps: words [steps,
 * images, words] -> counts [images]. */
EXPORT void synapse_activity(const uint64_t *words, int64_t *counts, int64_t steps, int64_t images,
                             int64_t per_image) {
  for (int64_t image = 0; image < images; image++) {
    counts[image] = 0;
    for (int64_t first = 0; first < steps; first += GROUP) {
      const int64_t end = first + GROUP < steps ? first + GROUP : steps;
      for (int64_t i = 0; i < per_image; i++) {
        uint64_t any = 0;
        for (int64_t t = first; t < end; t++) any |= words[(t * images + image) * per_image + i];
        counts[image] += __builtin_popcountll(any);
      }
    }
  }
}

/* Bits [pixels, words] -> channels-last floats [pixels, channels]. */
EXPORT void synapse_unpack(const uint64_t *words, float *spikes, int64_t pixels, int64_t channels,
                           int threads) {
  const int64_t per_pixel = (channels + 63) / 64;
  (void)threads;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t p = 0; p < pixels; p++)
    for (int64_t c = 0; c < channels; c++)
      spikes[p * channels + c] = (float)((words[p * per_pixel + c / 64] >> (c % 64)) & 1);
}
