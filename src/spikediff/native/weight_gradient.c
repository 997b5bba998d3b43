/* The gradient of an event-driven synapse's weights: what reaches the output, summed over spikes.
 *
 * gw[tap][c] = sum over steps, images and pixels of s[t][pixel][c] * gy[t][output that the tap feeds].
 * As in synapse.c, steps are taken in groups: the sums of gy over every pattern of a group are made
 * once per output pixel, and each active channel of the input pixel adds the sum of its pattern to
 * its row of weights. Those rows, of one tap and one block of output channels, stay in the first
 * cache. Taps and blocks do not meet, so threads share them out.
 */
#include <stdlib.h>
#include <string.h>
#include "spikediff.h"
#include "synapse.h"

/* The sums of gy [steps][HALF_BLOCK] over every pattern of steps. */
static INLINE void sum_patterns(const float *grad, int64_t step, int64_t channels, int steps,
                                float sums[PATTERNS][HALF_BLOCK]) {
  for (int k = 0; k < HALF_BLOCK; k++) sums[0][k] = 0.0f;
  for (int t = 0; t < steps; t++) {
    float *own = sums[1 << t];
    if (channels >= HALF_BLOCK) memcpy(own, grad + t * step, sizeof(sums[0])); /* a known size: moves */
    else for (int k = 0; k < HALF_BLOCK; k++) own[k] = k < channels ? grad[t * step + k] : 0.0f;
    for (int p = 1; p < 1 << t; p++)
      for (int at = 0; at < HALF_BLOCK; at += VEC_LANES)
        VEC_STORE(sums[p | 1 << t] + at, VEC_LOAD(sums[p] + at) + VEC_LOAD(own + at));
  }
}

static INLINE void add_pixel(const uint32_t *entry, const uint32_t *end,
                             float sums[PATTERNS][HALF_BLOCK], float *rows) {
  for (; entry < end; entry++) {
    float *row = rows + (size_t)(*entry >> GROUP) * HALF_BLOCK;
    const float *sum = sums[*entry & (PATTERNS - 1)];
    for (int at = 0; at < HALF_BLOCK; at += VEC_LANES)
      VEC_STORE(row + at, VEC_LOAD(row + at) + VEC_LOAD(sum + at));
  }
}

/* Floats of the pattern sums of a row of outputs. */
static int64_t row_of_sums(const geometry *g) { return g->out_width * PATTERNS * HALF_BLOCK; }

/* The input position that tap `tap` of output `o` reads, or -1. */
static int64_t read_by(const int32_t *table, int64_t most, int64_t o, int64_t tap) {
  for (int64_t i = 0; i < most; i++) {
    const int32_t *pair = table + 2 * (most * o + i);
    if (pair[0] < 0) break;
    if (pair[0] == tap) return pair[1];
  }
  return -1;
}

/* One row of taps, one block of output channels, one image. The pattern sums of a row of outputs
 * are made once and read by every tap of the row: `sums` holds them, [out_width]. */
static void add_image(const uint32_t *entries, const int32_t *starts, const float *grad,
                      float *weights, const geometry *g, int64_t block, int64_t tap_y,
                      const int32_t *taps_y, const int32_t *taps_x, int steps,
                      float (*sums)[PATTERNS][HALF_BLOCK]) {
  const int64_t step = g->images * g->out_height * g->out_width * g->out_channels;
  const int64_t first = block * HALF_BLOCK, left = g->out_channels - first;
  for (int64_t y = 0; y < g->out_height; y++) {
    const int64_t in_y = read_by(taps_y, g->most_taps_y, y, tap_y);
    if (in_y < 0) continue;
    for (int64_t x = 0; x < g->out_width; x++)
      sum_patterns(grad + (y * g->out_width + x) * g->out_channels + first, step, left, steps,
                   sums[x]);
    for (int64_t tap_x = 0; tap_x < g->taps_x; tap_x++) {
      float *rows = weights + tap_x * g->channels * HALF_BLOCK;
      for (int64_t x = 0; x < g->out_width; x++) {
        const int64_t in_x = read_by(taps_x, g->most_taps_x, x, tap_x);
        if (in_x < 0) continue;
        const int64_t pixel = in_y * g->width + in_x;
        const uint32_t *entry = entries + pixel * g->channels;
        add_pixel(entry, entry + starts[pixel * STARTS + PATTERNS], sums[x], rows);
      }
    }
  }
}

static void chunk_gradient(const uint64_t *words, const float *grad, float *weights,
                           const geometry *g, const int32_t *taps_y, const int32_t *taps_x,
                           uint32_t *entries, uint32_t *unsorted, int32_t *starts, float *sums,
                           int64_t images, int steps, int threads) {
  const int64_t pixels = g->height * g->width;
  const int64_t out_image = g->out_height * g->out_width * g->out_channels;
  const int64_t blocks = (g->out_channels + HALF_BLOCK - 1) / HALF_BLOCK;
  (void)threads;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    list_images(words, g, images, steps, entries, unsorted + thread_number() * g->channels, starts);
    float(*own)[PATTERNS][HALF_BLOCK] = (void *)(sums + thread_number() * row_of_sums(g));
#pragma omp for schedule(static) collapse(2)
    for (int64_t block = 0; block < blocks; block++)
      for (int64_t tap_y = 0; tap_y < g->taps_y; tap_y++) {
        const int64_t slice = (block * g->taps_y + tap_y) * g->taps_x;
        for (int64_t image = 0; image < images; image++)
          add_image(entries + image * pixels * g->channels, starts + image * pixels * STARTS,
                    grad + image * out_image, weights + slice * g->channels * HALF_BLOCK, g, block,
                    tap_y, taps_y, taps_x, steps, own);
      }
  }
}

/* words as of synapse_forward, grad [T, images, out_height, out_width, out_channels] -> weights
 * [blocks, taps_y, taps_x, channels, HALF_BLOCK], which come as zeros. 0, -1 or -2
 * as there. */
EXPORT int synapse_weight_gradient(const uint64_t *words, const float *grad, float *weights,
                                   const geometry *g, const int32_t *taps_y, const int32_t *taps_x,
                                   int threads) {
  if (!geometry_fits(g, taps_y, taps_x)) return -2;
  const int64_t pixels = g->height * g->width, per_pixel = (g->channels + 63) / 64;
  const int64_t out_image = g->out_height * g->out_width * g->out_channels;
  const int64_t many = images_at_a_time(g);
  uint32_t *entries = malloc(sizeof(uint32_t) * (size_t)(many * pixels * g->channels));
  int32_t *starts = malloc(sizeof(int32_t) * (size_t)(many * pixels * STARTS));
  uint32_t *unsorted = malloc(sizeof(uint32_t) * (size_t)(threads * g->channels));
  float *sums = malloc(sizeof(float) * (size_t)(threads * row_of_sums(g)));
  const int done = entries && unsorted && starts && sums;
  for (int64_t t = 0; done && t < g->steps; t += GROUP) {
    const int steps = g->steps - t < GROUP ? (int)(g->steps - t) : GROUP;
    for (int64_t image = 0; image < g->images; image += many) {
      const int64_t images = g->images - image < many ? g->images - image : many;
      const int64_t at = t * g->images + image;
      chunk_gradient(words + at * pixels * per_pixel, grad + at * out_image, weights, g, taps_y,
                     taps_x, entries, unsorted, starts, sums, images, steps, threads);
    }
  }
  free(entries);
  free(unsorted);
  free(starts);
  free(sums);
  return done ? 0 : -1;
}
