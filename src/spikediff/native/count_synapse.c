/* Convolutions of counts by products of four bytes: densely, or by what changed.
 *
 * Counts lie channels-last, four channels (a quad) are multiplied at once. Which input pixel a tap
 * reads stands in a table, so that strides, upsampling and the edge differ only there.
 *
 * By what changed: a quad in which any count changed is added as a whole, change by change, to the
 * sums that were kept. A change has a sign, so the weights are raised by 128 to have none; 128 times
 * the sum of the changes is taken off again.
 */
#include "count_synapse.h"

#define BLOCK_VECS 3 /* vectors of outputs that a dense tile sums */
#define AHEAD 4      /* pixels whose kept sums are fetched before they are needed */
#define ABREAST 4    /* pixels whose thresholds are compared together */
#define ROW_MOST 6   /* and that are summed of a list */
#if VEC_LANES == 16
#define TILE 8 /* pixels of a dense tile: its sums are registers */
#else
#define TILE 4
#endif

/* Counts of `pixels` pixels, a constant. */
static INLINE void count_pixels(const listener *l, const outlet *o, const int32_t *thresholds,
                                const ints *currents, int pixels, uint8_t *counts) {
  ints count[ABREAST] = {{0}};
  for (int64_t k = 0; k < l->levels; k++, thresholds += o->channels) {
    const ints threshold = LOAD_INTS(thresholds);
#pragma GCC unroll 4
    for (int p = 0; p < pixels; p++) {
#if defined(__AVX512F__)
      const __mmask16 reached = _mm512_cmpge_epi32_mask((__m512i)currents[p], (__m512i)threshold);
      count[p] = (ints)_mm512_mask_add_epi32((__m512i)count[p], reached, (__m512i)count[p],
                                             (__m512i)fill_ints(1));
#else
      count[p] -= currents[p] >= threshold;
#endif
    }
  }
#pragma GCC unroll 4
  for (int p = 0; p < pixels; p++)
    *(loose_lane_bytes *)(counts + p * l->pixel_bytes) =
        __builtin_convertvector(count[p], lane_bytes);
}

static INLINE void count_thresholds(const listener *l, const outlet *o, const frame *f,
                                    int64_t pixel, int64_t channel, int pixels,
                                    const ints *currents) {
  uint8_t *counts = f->memory + l->counts + pixel * l->pixel_bytes + channel;
  const int32_t *thresholds = l->thresholds + channel;
  int p = 0;
  for (; p + ABREAST <= pixels; p += ABREAST)
    count_pixels(l, o, thresholds, currents + p, ABREAST, counts + p * l->pixel_bytes);
  for (; p < pixels; p++)
    count_pixels(l, o, thresholds, currents + p, 1, counts + p * l->pixel_bytes);
}

void pass_on(const outlet *o, const frame *f, int64_t pixel, int64_t channel, int pixels, int vecs,
             const ints *sums) {
  const int64_t channels = o->channels;
  for (int v = 0; v < vecs; v++, channel += VEC_LANES) {
    ints currents[TILE];
    const ints left = LOAD_INTS(o->left + channel), bias = LOAD_INTS(f->bias + channel);
    const int64_t at = pixel * channels + channel;
    for (int p = 0; p < pixels; p++) currents[p] = (sums[p * vecs + v] << left) + bias;
    if (o->residual >= 0) {
      const int32_t *residual = (const int32_t *)(f->memory + o->residual) + at;
      for (int p = 0; p < pixels; p++) currents[p] += LOAD_INTS(residual + p * channels);
    }
    if (o->current >= 0) {
      int32_t *current = (int32_t *)(f->memory + o->current) + at;
      for (int p = 0; p < pixels; p++) STORE_INTS(current + p * channels, currents[p]);
    }
    for (int64_t n = 0; n < o->listeners; n++)
      count_thresholds(o->listener + n, o, f, pixel, channel, pixels, currents);
  }
}

/* Some pixels of a dense convolution, for `vecs` vectors of outputs from `channel` on. */
static INLINE void dense_tile(const synapse *s, const frame *f, int64_t pixel, int64_t channel,
                              int pixels, int vecs) {
  ints sum[TILE][BLOCK_VECS], sums[TILE * BLOCK_VECS];
  const size_t row = 4 * (size_t)s->out.channels;
  const int8_t *weights = s->weights + 4 * channel;
  const uint8_t *counts = f->memory + s->counts;
  const int64_t taps = s->kernel * s->kernel, outside = s->in_height * s->in_width;
  const int32_t *sources = s->sources + pixel * taps;
  for (int p = 0; p < pixels; p++)
    for (int v = 0; v < vecs; v++) sum[p][v] = (ints){0};
  for (int64_t tap = 0; tap < taps; tap++) {
    const uint8_t *at[TILE];
    int inside = 0;
    for (int p = 0; p < pixels; p++) {
      const int64_t source = sources[p * taps + tap];
      at[p] = counts + source * 4 * s->quads;
      inside |= source != outside;
    }
    if (!inside) {
      weights += (size_t)s->quads * row;
      continue;
    }
    for (int64_t q = 0; q < s->quads; q++, weights += row) {
      ints w[BLOCK_VECS];
#pragma GCC unroll 8
      for (int v = 0; v < vecs; v++) w[v] = LOAD_INTS(weights + 4 * VEC_LANES * v);
#pragma GCC unroll 8
      for (int p = 0; p < pixels; p++) {
        const ints count = fill_ints(quad_at(at[p] + 4 * q));
#pragma GCC unroll 8
        for (int v = 0; v < vecs; v++) sum[p][v] = dot_small(sum[p][v], count, w[v]);
      }
    }
  }
  int32_t *kept = f->state ? (int32_t *)(f->state + s->kept_sums) : NULL;
#pragma GCC unroll 8
  for (int p = 0; p < pixels; p++)
#pragma GCC unroll 8
    for (int v = 0; v < vecs; v++) {
      sums[p * vecs + v] = sum[p][v];
      if (!kept) continue;
      STORE_INTS(kept + (pixel + p) * s->out.channels + channel + v * VEC_LANES, sum[p][v]);
    }
  pass_on(&s->out, f, pixel, channel, pixels, vecs, sums);
}

#define CASE(P, V)                                                                                \
  case 4 * P + V:                                                                                 \
    dense_tile(s, f, pixel, channel, P, V);                                                       \
    break;
#define CASES(P) CASE(P, 1) CASE(P, 2) CASE(P, 3)

static void tile_of(const synapse *s, const frame *f, int64_t pixel, int64_t channel, int pixels,
                    int vecs) {
  switch (4 * pixels + vecs) {
    CASES(1) CASES(2) CASES(3) CASES(4)
#if TILE == 8
    CASES(5) CASES(6) CASES(7) CASES(8)
#endif
  }
}
#undef CASES
#undef CASE

/* Pixels of a tile: whole rows or parts of them, where there is a number of good size. */
static int tile_size(int64_t width) {
  for (int pixels = TILE; pixels > TILE / 2; pixels--)
    if (width % pixels == 0) return pixels;
  return TILE;
}

void synapse_dense(const synapse *s, const frame *f) {
  const int64_t vecs = s->out.channels / VEC_LANES, size = tile_size(s->out_width);
  const int64_t last = s->out_height * s->out_width;
  const int64_t blocks = (vecs + BLOCK_VECS - 1) / BLOCK_VECS;
  for (int64_t block = 0; block < blocks; block++) {
    const int64_t v0 = vecs * block / blocks, v1 = vecs * (block + 1) / blocks;
    for (int64_t pixel = 0; pixel < last; pixel += size) {
      const int64_t pixels = last - pixel < size ? last - pixel : size;
      tile_of(s, f, pixel, v0 * VEC_LANES, (int)pixels, (int)(v1 - v0));
    }
  }
}

int64_t synapse_list(const synapse *s, const frame *f) {
  const int32_t quads = (int32_t)s->quads, repeats = 1 + (int32_t)s->doubled;
  const int64_t columns = columns_of(s), room = columns * quads + LISTED;
  int64_t found = 0;
  for (int64_t y = 0; y < s->in_height; y++) {
    const int64_t bytes = s->in_width * 4 * quads;
    const uint8_t *now = f->memory + s->counts + y * bytes;
    uint8_t *before = f->state ? f->state + s->kept_counts + y * bytes : NULL;
    int32_t *which = f->changed.quads + y * room, *changes = f->changed.changes + y * room;
    int32_t *starts = f->changed.starts + y * (columns + 1), n = 0, sum = 0;
    int32_t *sums = f->changed.sums + y * (columns + 1);
    for (int32_t x = 0; x < columns; x += repeats) {
      const int64_t at = (int64_t)(x / repeats) * 4 * quads;
      const int32_t before_sum = sum;
      starts[x] = n;
      sums[x] = sum;
      const int32_t many = list_quads(now + at, before ? before + at : NULL, quads, x * quads,
                                      which + n, changes + n, &sum);
      n += many;
      if (repeats == 1) continue;
      starts[x + 1] = n;
      sums[x + 1] = sum;
      for (int32_t i = n - many; i < n; i++) {
        which[i + many] = which[i] + quads;
        changes[i + many] = changes[i];
      }
      n += many;
      sum += sum - before_sum;
    }
    starts[columns] = n;
    sums[columns] = sum;
    if (before) memcpy(before, now, (size_t)bytes);
    found += n;
  }
  return found;
}

/* Gather what an output pixel sees, as rows of weights in bytes; return how many, and the sum of all
 * changes. */
static INLINE int64_t gather(const synapse *s, const frame *f, int64_t y, int64_t x,
                             int32_t *total) {
  const int64_t columns = columns_of(s), rows = s->in_height << s->doubled;
  const int64_t room = columns * s->quads + LISTED, left = x * s->stride - s->padding;
  const int64_t c0 = left < 0 ? 0 : left;
  const int64_t c1 = left + s->kernel > columns ? columns : left + s->kernel;
  const uint32_t row = (uint32_t)(4 * s->out.channels); /* beyond a list is anything: no sign */
  int64_t n = 0;
  *total = 0;
  if (c0 >= c1) return 0;
  for (int64_t dy = 0; dy < s->kernel; dy++) {
    const int64_t at = y * s->stride - s->padding + dy;
    if (at < 0 || at >= rows) continue;
    const int64_t line = at >> s->doubled;
    const int32_t *starts = f->changed.starts + line * (columns + 1);
    const int32_t *sums = f->changed.sums + line * (columns + 1);
    const int32_t *quads = f->changed.quads + line * room + starts[c0];
    const int32_t *changes = f->changed.changes + line * room + starts[c0];
    const uint32_t first = (uint32_t)((dy * s->kernel - left) * s->quads);
    const int32_t many = starts[c1] - starts[c0];
    int32_t *to = f->rows + n, *to_changes = f->changes + n;
    for (int32_t done = 0; done < many; done += LISTED)
      for (int i = 0; i < LISTED; i++) {
        to[done + i] = (int32_t)(((uint32_t)quads[done + i] + first) * row);
        to_changes[done + i] = changes[done + i];
      }
    n += many;
    *total += sums[c1] - sums[c0];
  }
  return n;
}

/* Add the rows of `n` quads (a multiple of `sets`) to one pixel's sums. */
static INLINE void add_rows(const synapse *s, const frame *f, int64_t pixel, int64_t channel,
                            int64_t n, int32_t total, int sets, int vecs, ints *sums) {
  const uint8_t *weights = s->raised + 4 * channel;
  ints sum[SETS][ROW_MOST];
  for (int set = 0; set < sets; set++)
    for (int v = 0; v < vecs; v++) sum[set][v] = (ints){0};
  int32_t *kept = NULL;
  if (f->state) {
    kept = (int32_t *)(f->state + s->kept_sums) + pixel * s->out.channels + channel;
    for (int v = 0; v < vecs; v++) /* of a pixel to come */
      __builtin_prefetch(kept + AHEAD * s->out.channels + v * VEC_LANES, 1);
  }
  for (int64_t i = 0; i < n; i += sets)
#pragma GCC unroll 4
    for (int set = 0; set < sets; set++) {
      const uint8_t *w = weights + f->rows[i + set];
      const ints change = fill_ints(f->changes[i + set]);
#pragma GCC unroll 8
      for (int v = 0; v < vecs; v++)
        sum[set][v] = dot_any(sum[set][v], LOAD_INTS(w + 4 * VEC_LANES * v), change);
    }
#pragma GCC unroll 8
  for (int v = 0; v < vecs; v++) {
    ints all = sum[0][v] - 128 * total;
    for (int set = 1; set < sets; set++) all += sum[set][v];
    if (kept) {
      all += LOAD_INTS(kept + v * VEC_LANES);
      if (n) STORE_INTS(kept + v * VEC_LANES, all);
    }
    sums[v] = all;
  }
}

#define CASE(SETS, V)                                                                             \
  case V:                                                                                         \
    add_rows(s, f, pixel, channel, n, total, SETS, V, sums);                                      \
    break;

static void pixel_sums(const synapse *s, const frame *f, int64_t pixel, int64_t channel, int64_t n,
                       int32_t total, int vecs, ints *sums) {
  switch (vecs) { CASE(4, 1) CASE(4, 2) CASE(4, 3) CASE(2, 4) CASE(2, 5) CASE(2, 6) }
}
#undef CASE

void synapse_events(const synapse *s, const frame *f) {
  const int64_t last = s->out_height * s->out_width, size = tile_size(s->out_width);
  const int64_t vecs = s->out.channels / VEC_LANES, blocks = (vecs + ROW_MOST - 1) / ROW_MOST;
  ints sums[TILE * ROW_MOST];
  for (int64_t block = 0; block < blocks; block++) {
    const int64_t v0 = vecs * block / blocks, v1 = vecs * (block + 1) / blocks;
    const int64_t channel = v0 * VEC_LANES;
    const int many = (int)(v1 - v0);
    for (int64_t pixel = 0; pixel < last; pixel += size) {
      const int pixels = (int)(last - pixel < size ? last - pixel : size);
      int64_t y = pixel / s->out_width, x = pixel % s->out_width;
      for (int p = 0; p < pixels; p++) {
        int32_t total;
        const int64_t n = gather(s, f, y, x, &total);
        for (int i = 0; i < SETS; i++) f->rows[n + i] = f->changes[n + i] = 0;
        pixel_sums(s, f, pixel + p, channel, (n + SETS - 1) / SETS * SETS, total, many,
                   sums + p * many);
        if (++x == s->out_width) {
          x = 0;
          y++;
        }
      }
      pass_on(&s->out, f, pixel, channel, pixels, many, sums);
    }
  }
}
