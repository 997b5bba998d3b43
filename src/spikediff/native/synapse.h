/* What the forward pass of a synapse and the gradient of its weights share: lists of what fires. */
#ifndef SYNAPSE_H
#define SYNAPSE_H
#include "spikediff.h"

#define CHUNK_BYTES (1 << 19) /* of lists; with the weights of a block they fit the second cache */
#define PATTERNS (1 << GROUP) /* of a channel's spikes over the steps of a group */
#define STARTS (PATTERNS + 1) /* per pixel: where the entries of every pattern start, and the end */

typedef struct { /* mirrored field by field in spikediff/events/synapse.py */
  int64_t steps, images, height, width, channels;
  int64_t out_height, out_width, out_channels;
  int64_t taps_y, taps_x;         /* slices of the weights along y and x */
  int64_t most_taps_y, most_taps_x; /* rows of the tables: [out size][most][tap, input], -1 ends */
} geometry;

/* Whether a table reads pixels of the image by taps of the kernel alone. */
static int64_t table_fits(const int32_t *table, int64_t out, int64_t most, int64_t taps,
                          int64_t size) {
  for (int64_t i = 0; i < out; i++)
    for (int64_t k = 0; k < most && table[2 * (i * most + k)] >= 0; k++) {
      const int32_t *pair = table + 2 * (i * most + k);
      if (pair[0] >= taps || pair[1] < 0 || pair[1] >= size) return 0;
    }
  return 1;
}

/* Whether every list fits where it is put: no loop below checks a bound. */
static int64_t geometry_fits(const geometry *g, const int32_t *taps_y, const int32_t *taps_x) {
  const int64_t counts[] = {g->steps,     g->images,     g->height,       g->width,
                            g->channels,  g->out_height, g->out_width,    g->out_channels,
                            g->taps_y,    g->taps_x,     g->most_taps_y,  g->most_taps_x};
  for (unsigned i = 0; i < sizeof(counts) / sizeof(*counts); i++)
    if (counts[i] < 1) return 0;
  return g->channels < (1 << 28) && g->most_taps_y <= MAX_TAPS && g->most_taps_x <= MAX_TAPS &&
         g->most_taps_y * g->most_taps_x <= MAX_TAPS && g->taps_y < (1 << 24) &&
         g->taps_x < (1 << 24) && g->taps_y * g->taps_x < INT32_MAX / g->channels - 1 &&
         table_fits(taps_y, g->out_height, g->most_taps_y, g->taps_y, g->height) &&
         table_fits(taps_x, g->out_width, g->most_taps_x, g->taps_x, g->width);
}

/* List the active channels of a pixel as channel << GROUP | pattern, sorted by their pattern. Bits
 * behind the last channel count for nothing. */
static INLINE void list_pixel(const uint64_t *words, int64_t step_words, int64_t per_pixel,
                              int64_t channels, int steps, uint32_t *entries, uint32_t *unsorted,
                              int32_t *starts) {
  int32_t many[PATTERNS] = {0}, n = 0;
  const uint64_t last = ~(uint64_t)0 >> (64 * per_pixel - channels);
  for (int64_t q = 0; q < per_pixel; q++) {
    uint64_t w[GROUP] = {0}, any = 0;
    for (int t = 0; t < steps; t++) any |= w[t] = words[t * step_words + q];
    if (q == per_pixel - 1) any &= last;
    while (any) {
      int c = __builtin_ctzll(any);
      any &= any - 1;
      uint32_t pattern = 0;
      for (int t = 0; t < GROUP; t++) pattern |= (uint32_t)((w[t] >> c) & 1) << t;
      unsorted[n++] = (uint32_t)(64 * q + c) << GROUP | pattern;
      many[pattern]++;
    }
  }
  int32_t next[PATTERNS];
  starts[0] = 0;
  for (int p = 0; p < PATTERNS; p++) {
    next[p] = starts[p];
    starts[p + 1] = starts[p] + many[p];
  }
  for (int32_t i = 0; i < n; i++) entries[next[unsorted[i] & (PATTERNS - 1)]++] = unsorted[i];
}

/* List every pixel of some images, within a parallel region: entries [images, pixels, channels],
 * starts [images, pixels, STARTS]; `unsorted` [channels] is the thread's own. */
static INLINE void list_images(const uint64_t *words, const geometry *g, int64_t images, int steps,
                               uint32_t *entries, uint32_t *unsorted, int32_t *starts) {
  const int64_t pixels = g->height * g->width, per_pixel = (g->channels + 63) / 64;
  const int64_t step_words = g->images * pixels * per_pixel;
#pragma omp for schedule(static)
  for (int64_t p = 0; p < images * pixels; p++)
    list_pixel(words + p * per_pixel, step_words, per_pixel, g->channels, steps,
               entries + p * g->channels, unsorted, starts + p * STARTS);
}

/* Images whose lists are made at a time. */
static INLINE int64_t images_at_a_time(const geometry *g) {
  int64_t bytes = g->height * g->width * g->channels * (int64_t)sizeof(uint32_t);
  int64_t n = CHUNK_BYTES / bytes;
  return n < 1 ? 1 : n > g->images ? g->images : n;
}
#endif
