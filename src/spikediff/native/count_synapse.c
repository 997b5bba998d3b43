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
#define ROW_MOST 6   /* and that are summed of a list */
#if VEC_LANES == 16
#define TILE 8 /* pixels of a dense tile: its sums are registers */
#else
#define TILE 4
#endif

static INLINE void count_thresholds(const listener *l, const outlet *o, const frame *f,
                                    int64_t pixel, int64_t channel, int pixels,
                                    const ints *currents) {
  uint8_t *counts = f->memory + l->counts + pixel * l->pixel_bytes + channel;
  for (int p = 0; p < pixels; p++, counts += l->pixel_bytes) {
    const int32_t *threshold = l->thresholds + channel;
    ints count = {0};
    for (int64_t k = 0; k < l->levels; k++, threshold += o->channels)
      count -= currents[p] >= LOAD_INTS(threshold);
    *(loose_lane_bytes *)counts = __builtin_convertvector(count, lane_bytes);
  }
}

void pass_on(const outlet *o, const frame *f, int64_t pixel, int64_t channel, int pixels, int vecs,
             const ints *sums) {
  for (int v = 0; v < vecs; v++, channel += VEC_LANES) {
    ints currents[TILE];
    const ints left = LOAD_INTS(o->left + channel), bias = LOAD_INTS(f->bias + channel);
    for (int p = 0; p < pixels; p++) currents[p] = (sums[p * vecs + v] << left) + bias;
    const int64_t at = pixel * o->channels + channel;
    if (o->residual >= 0) {
      const int32_t *residual = (const int32_t *)(f->memory + o->residual) + at;
      for (int p = 0; p < pixels; p++) currents[p] += LOAD_INTS(residual + p * o->channels);
    }
    if (o->current >= 0) {
      int32_t *current = (int32_t *)(f->memory + o->current) + at;
      for (int p = 0; p < pixels; p++) STORE_INTS(current + p * o->channels, currents[p]);
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
  const int32_t *sources = s->sources + pixel * s->taps;
  for (int p = 0; p < pixels; p++)
    for (int v = 0; v < vecs; v++) sum[p][v] = (ints){0};
  for (int64_t tap = 0; tap < s->taps; tap++) {
    const uint8_t *at[TILE];
    int inside = 0;
    for (int p = 0; p < pixels; p++) {
      const int64_t source = sources[p * s->taps + tap];
      at[p] = counts + source * 4 * s->quads;
      inside |= source != s->in_pixels;
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

void synapse_dense(const synapse *s, const frame *f, int64_t first, int64_t last) {
  const int64_t vecs = s->out.channels / VEC_LANES, size = tile_size(s->out_width);
  const int64_t blocks = (vecs + BLOCK_VECS - 1) / BLOCK_VECS;
  for (int64_t block = 0; block < blocks; block++) {
    const int64_t v0 = vecs * block / blocks, v1 = vecs * (block + 1) / blocks;
    for (int64_t pixel = first; pixel < last; pixel += size) {
      const int64_t pixels = last - pixel < size ? last - pixel : size;
      tile_of(s, f, pixel, v0 * VEC_LANES, (int)pixels, (int)(v1 - v0));
    }
  }
}

/* Gather what an output pixel sees; return how many quads, and the sum of their changes. */
static INLINE int64_t gather(const synapse *s, const frame *f, int64_t pixel, int32_t *total) {
  const int64_t room = (s->quads + LISTED - 1) / LISTED * LISTED;
  const int32_t *sources = s->sources + pixel * s->taps;
  int64_t n = 0;
  *total = 0;
  for (int64_t tap = 0; tap < s->taps; tap++) {
    const int64_t source = sources[tap], many = f->changed.numbers[source];
    const int32_t *quads = f->changed.quads + source * room;
    const int32_t *changes = f->changed.changes + source * room;
    const int32_t first = (int32_t)(tap * s->quads);
    for (int64_t done = 0; done < many; done += LISTED)
      for (int i = 0; i < LISTED; i++) {
        f->rows[n + done + i] = quads[done + i] + first;
        f->changes[n + done + i] = changes[done + i];
      }
    n += many;
    *total += f->changed.sums[source];
  }
  return n;
}

/* Add the rows of `n` quads (a multiple of `sets`) to one pixel's sums, and pass them on. */
static INLINE void add_rows(const synapse *s, const frame *f, int64_t pixel, int64_t channel,
                            int64_t n, int32_t total, int sets, int vecs) {
  const size_t row = 4 * (size_t)s->out.channels;
  const uint8_t *weights = s->raised + 4 * channel;
  int32_t *kept = NULL;
  ints sum[4][ROW_MOST], sums[ROW_MOST];
  if (f->state) kept = (int32_t *)(f->state + s->kept_sums) + pixel * s->out.channels + channel;
  for (int set = 0; set < sets; set++)
    for (int v = 0; v < vecs; v++) sum[set][v] = (ints){0};
  for (int64_t i = 0; i < n; i += sets)
#pragma GCC unroll 4
    for (int set = 0; set < sets; set++) {
      const uint8_t *w = weights + (size_t)f->rows[i + set] * row;
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
      STORE_INTS(kept + v * VEC_LANES, all);
    }
    sums[v] = all;
  }
  pass_on(&s->out, f, pixel, channel, 1, vecs, sums);
}

void synapse_events(const synapse *s, const frame *f, int64_t first, int64_t last) {
  const int64_t vecs = s->out.channels / VEC_LANES, blocks = (vecs + ROW_MOST - 1) / ROW_MOST;
  for (int64_t pixel = first; pixel < last; pixel++) {
    int32_t total;
    int64_t n = gather(s, f, pixel, &total);
    for (int i = 0; i < 4; i++) f->rows[n + i] = f->changes[n + i] = 0;
    n = (n + 3) / 4 * 4;
    for (int64_t block = 0; block < blocks; block++) {
      const int64_t v0 = vecs * block / blocks, v1 = vecs * (block + 1) / blocks;
      const int64_t channel = v0 * VEC_LANES;
      switch (v1 - v0) {
        case 1: add_rows(s, f, pixel, channel, n, total, 4, 1); break;
        case 2: add_rows(s, f, pixel, channel, n, total, 4, 2); break;
        case 3: add_rows(s, f, pixel, channel, n, total, 4, 3); break;
        case 4: add_rows(s, f, pixel, channel, n, total, 2, 4); break;
        case 5: add_rows(s, f, pixel, channel, n, total, 2, 5); break;
        case 6: add_rows(s, f, pixel, channel, n, total, 2, 6); break;
      }
    }
  }
}
