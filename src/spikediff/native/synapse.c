/* Event-driven synapses: a convolution of spikes that adds the weights of what fired.
 *
 * Spikes come as bits over channels, [T, images, H, W, words of 64 channels]. Up to GROUP spiking
 * steps are computed together: for every pixel, the channels that fire in any of them are listed
 * once, each with its pattern over the steps; every tap and every block of output channels then
 * walks that list. A row of weights is loaded once and added, times 0 or 1, to the sums of all
 * steps, which stay in registers. The cost is that of the channels that fire at all in the group,
 * at the full speed of multiply-add: dense work with the silent channels left out.
 * Products with 0 and 1 are exact, so these are float32 sums over the active weights.
 *
 * Which input pixel a tap of an output pixel reads stands in tables: strides, dilations, padding,
 * transposed convolutions and upsampling differ only there (spikediff/events/taps.py).
 */
#include <stdlib.h>
#include <string.h>
#include "spikediff.h"
#include "synapse.h"

/* patterns[p][t]: 1 where step t fires in pattern p */
static const float patterns[1 << GROUP][GROUP] = {
    {0, 0, 0, 0}, {1, 0, 0, 0}, {0, 1, 0, 0}, {1, 1, 0, 0}, {0, 0, 1, 0}, {1, 0, 1, 0},
    {0, 1, 1, 0}, {1, 1, 1, 0}, {0, 0, 0, 1}, {1, 0, 0, 1}, {0, 1, 0, 1}, {1, 1, 0, 1},
    {0, 0, 1, 1}, {1, 0, 1, 1}, {0, 1, 1, 1}, {1, 1, 1, 1}};

/* The sums of one output pixel for `vecs` vectors of output channels at `steps` spiking steps. */
static INLINE void sum_pixel(const uint32_t *entries, const int32_t *counts, const float *weights,
                             const float *bias, const geometry *g, const int32_t *row_taps,
                             const int32_t *column_taps, int steps, int vecs,
                             float sums[GROUP][BLOCK]) {
  vec sum[GROUP][VECS];
  for (int t = 0; t < steps; t++)
    for (int k = 0; k < vecs; k++) sum[t][k] = VEC_LOAD(bias + k * VEC_LANES);
  for (int64_t i = 0; i < g->most_taps_y && row_taps[2 * i] >= 0; i++) {
    for (int64_t j = 0; j < g->most_taps_x && column_taps[2 * j] >= 0; j++) {
      const int64_t pixel = row_taps[2 * i + 1] * g->width + column_taps[2 * j + 1];
      const int64_t tap = row_taps[2 * i] * g->taps_x + column_taps[2 * j];
      const float *rows = weights + tap * g->channels * BLOCK;
      const uint32_t *entry = entries + pixel * g->channels, *end = entry + counts[pixel];
      for (; entry < end; entry++) {
        const float *row = rows + (size_t)(*entry >> GROUP) * BLOCK;
        const float *fires = patterns[*entry & ((1 << GROUP) - 1)];
        vec w[VECS];
        for (int k = 0; k < vecs; k++) w[k] = VEC_LOAD(row + k * VEC_LANES);
        for (int t = 0; t < steps; t++) {
          const vec s = VEC_FILL(fires[t]);
          for (int k = 0; k < vecs; k++) sum[t][k] = VEC_FMA(s, w[k], sum[t][k]);
        }
      }
    }
  }
  for (int t = 0; t < steps; t++)
    for (int k = 0; k < vecs; k++) VEC_STORE(sums[t] + k * VEC_LANES, sum[t][k]);
}

/* One row of an output image for one block of output channels. */
static INLINE void sum_row(const uint32_t *entries, const int32_t *counts, const float *weights,
                           const float *bias, float *out, const geometry *g, int64_t out_step,
                           int64_t block, int64_t y, const int32_t *taps_y, const int32_t *taps_x,
                           int steps, int vecs) {
  const int64_t first = block * BLOCK, left = g->out_channels - first;
  const size_t bytes = sizeof(float) * (size_t)(left < BLOCK ? left : BLOCK);
  weights += block * g->taps_y * g->taps_x * g->channels * BLOCK;
  for (int64_t x = 0; x < g->out_width; x++) {
    float sums[GROUP][BLOCK];
    sum_pixel(entries, counts, weights, bias + first, g, taps_y + 2 * g->most_taps_y * y,
              taps_x + 2 * g->most_taps_x * x, steps, vecs, sums);
    float *at = out + (y * g->out_width + x) * g->out_channels + first;
    for (int t = 0; t < steps; t++) memcpy(at + t * out_step, sums[t], bytes);
  }
}

static void sum_row_of_steps(const uint32_t *entries, const int32_t *counts, const float *weights,
                             const float *bias, float *out, const geometry *g, int64_t out_step,
                             int64_t block, int64_t y, const int32_t *taps_y,
                             const int32_t *taps_x, int steps) {
  const int vecs = g->out_channels - block * BLOCK <= VEC_LANES ? 1 : 2;
#define CASE(N, V)                                                                                \
  case 3 * N + V:                                                                                 \
    sum_row(entries, counts, weights, bias, out, g, out_step, block, y, taps_y, taps_x, N, V);    \
    break;
  switch (3 * steps + vecs) { /* constants, so that the sums are registers */
    CASE(1, 1) CASE(1, 2) CASE(2, 1) CASE(2, 2) CASE(3, 1) CASE(3, 2) CASE(4, 1) CASE(4, 2)
  }
#undef CASE
}

/* Some images, for one group of spiking steps: list them, then sum. */
static void chunk_of_images(const uint64_t *words, const float *weights, const float *bias,
                            float *out, const geometry *g, const int32_t *taps_y,
                            const int32_t *taps_x, uint32_t *entries, int32_t *counts,
                            int64_t images, int steps, int threads) {
  const int64_t pixels = g->height * g->width;
  const int64_t out_image = g->out_height * g->out_width * g->out_channels;
  const int64_t blocks = (g->out_channels + BLOCK - 1) / BLOCK;
  (void)threads;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    list_images(words, g, images, steps, entries, counts);
#pragma omp for schedule(static) collapse(3)
    for (int64_t block = 0; block < blocks; block++)
      for (int64_t image = 0; image < images; image++)
        for (int64_t y = 0; y < g->out_height; y++)
          sum_row_of_steps(entries + image * pixels * g->channels, counts + image * pixels, weights,
                           bias, out + image * out_image, g, g->images * out_image, block, y,
                           taps_y, taps_x, steps);
  }
}

/* words [T, images, H, W, words], weights [blocks, taps_y, taps_x, channels, BLOCK], bias
 * [blocks * BLOCK] -> out [T, images, out_height, out_width, out_channels]. 0, or -1: no memory. */
EXPORT int synapse_forward(const uint64_t *words, const float *weights, const float *bias,
                           float *out, const geometry *g, const int32_t *taps_y,
                           const int32_t *taps_x, int threads) {
  const int64_t pixels = g->height * g->width, per_pixel = (g->channels + 63) / 64;
  const int64_t out_image = g->out_height * g->out_width * g->out_channels;
  const int64_t many = images_at_a_time(g);
  uint32_t *entries = malloc(sizeof(uint32_t) * (size_t)(many * pixels * g->channels));
  int32_t *counts = malloc(sizeof(int32_t) * (size_t)(many * pixels));
  if (entries && counts) {
    for (int64_t t = 0; t < g->steps; t += GROUP) {
      const int steps = g->steps - t < GROUP ? (int)(g->steps - t) : GROUP;
      for (int64_t image = 0; image < g->images; image += many) {
        const int64_t images = g->images - image < many ? g->images - image : many;
        chunk_of_images(words + (t * g->images + image) * pixels * per_pixel, weights, bias,
                        out + (t * g->images + image) * out_image, g, taps_y, taps_x, entries,
                        counts, images, steps, threads);
      }
    }
  }
  const int done = entries && counts;
  free(entries);
  free(counts);
  return done ? 0 : -1;
}

/* Output channels in a block of the packed weights. */
EXPORT int synapse_block(void) { return BLOCK; }

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
