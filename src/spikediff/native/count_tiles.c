/* Dense convolutions of counts by matrix tiles (AMX): 16 pixels by 16 outputs, up to 64 counts of a
 * tap at a time. The weights of a tap, [quads][channels][4], lie as the tiles want them.
 */
#include "count_synapse.h"

#if defined(__AMX_INT8__)
#define ROWS 16   /* of a tile: pixels, or quads of weights */
#define LEAST 8   /* quads that a tile is worth loading for */
#define BLOCK_TILES 6 /* of sums; one is left for counts and one for weights */
#define PASSED 8  /* pixels that are passed on at a time */

typedef struct { /* as the processor reads it */
  uint8_t palette, start, reserved[14];
  uint16_t column_bytes[16];
  uint8_t rows[16];
} tiles;

/* Quads of a tap that are multiplied at a time: as many as divide them. */
static int64_t slice_of(const synapse *s) {
  int64_t slice = s->quads < ROWS ? s->quads : ROWS;
  while (s->quads % slice) slice--;
  return slice;
}

int synapse_fits_tiles(const synapse *s) { return slice_of(s) >= LEAST; }

static void configure(int64_t slice) {
  tiles t = {.palette = 1};
  for (int i = 0; i < BLOCK_TILES + 2; i++) {
    t.rows[i] = ROWS;
    t.column_bytes[i] = 4 * ROWS;
  }
  t.column_bytes[BLOCK_TILES] = (uint16_t)(4 * slice);
  t.rows[BLOCK_TILES + 1] = (uint8_t)slice;
  _tile_loadconfig(&t);
}

/* Tiles have constant names. */
#define EACH_TILE(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5)
#define CLEAR(V) if (V < vecs) _tile_zero(V);
#define MULTIPLY(V)                                                                               \
  if (V < vecs) {                                                                                 \
    _tile_loadd(7, weights + 4 * ROWS * V, row);                                                  \
    _tile_dpbusd(V, 6, 7);                                                                        \
  }
#define KEEP(V) if (V < vecs) _tile_stored(V, sums + V, sizeof(ints) * vecs);

/* Copy what 16 pixels read of a tap, a slice of quads, to where a tile is loaded from. */
static INLINE void gather(const synapse *s, const uint8_t *counts, const int32_t *sources, int pixels,
                          int64_t quad, int64_t slice, uint8_t (*to)[4 * ROWS]) {
  const int64_t taps = s->kernel * s->kernel;
  const __mmask16 there = (__mmask16)((1u << slice) - 1);
#pragma GCC unroll 16
  for (int p = 0; p < ROWS; p++) {
    const int64_t source = sources[p < pixels ? p * taps : 0];
    const uint8_t *at = counts + 4 * (source * s->quads + quad);
    _mm512_store_si512(to[p], _mm512_maskz_loadu_epi32(there, at));
  }
}

static INLINE void block(const synapse *s, const frame *f, int64_t pixel, int64_t channel,
                         int64_t slice, int vecs) {
  ints sums[ROWS * BLOCK_TILES];
  uint8_t counts[2][ROWS][4 * ROWS] __attribute__((aligned(64)));
  const int64_t taps = s->kernel * s->kernel, loads = taps * (s->quads / slice);
  const int64_t left = s->out_height * s->out_width - pixel;
  const int pixels = left < ROWS ? (int)left : ROWS;
  const size_t row = 4 * (size_t)s->out.channels;
  const uint8_t *from = f->memory + s->counts;
  const int32_t *sources = s->sources + pixel * taps;
  const int8_t *weights = s->weights + 4 * channel;
  EACH_TILE(CLEAR)
  gather(s, from, sources, pixels, 0, slice, counts[0]);
  for (int64_t i = 0, quad = 0; i < loads; i++, weights += slice * row) {
    quad += slice;
    if (quad == s->quads) { /* the next tap */
      quad = 0;
      sources++;
    }
    if (i + 1 < loads) /* early: a tile waits for what was just written */
      gather(s, from, sources, pixels, quad, slice, counts[(i + 1) & 1]);
    _tile_loadd(6, counts[i & 1], 4 * ROWS);
    EACH_TILE(MULTIPLY)
  }
  EACH_TILE(KEEP)
  if (f->state) {
    int32_t *kept = (int32_t *)(f->state + s->kept_sums) + pixel * s->out.channels + channel;
    for (int p = 0; p < pixels; p++, kept += s->out.channels)
      memcpy(kept, sums + p * vecs, sizeof(ints) * vecs);
  }
  for (int p = 0; p < pixels; p += PASSED) {
    const int many = pixels - p < PASSED ? pixels - p : PASSED;
    pass_on(&s->out, f, pixel + p, channel, many, vecs, sums + p * vecs);
  }
}

void synapse_tiles(const synapse *s, const frame *f) {
  const int64_t slice = slice_of(s), vecs = s->out.channels / VEC_LANES;
  const int64_t blocks = (vecs + BLOCK_TILES - 1) / BLOCK_TILES;
  configure(slice);
  for (int64_t b = 0; b < blocks; b++) {
    const int64_t v0 = vecs * b / blocks, v1 = vecs * (b + 1) / blocks;
    for (int64_t pixel = 0; pixel < s->out_height * s->out_width; pixel += ROWS)
      switch (v1 - v0) {
#define CASE(V)                                                                                   \
  case V:                                                                                         \
    block(s, f, pixel, v0 * VEC_LANES, slice, V);                                                 \
    break;
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
      }
  }
  _tile_release();
}
#else
int synapse_fits_tiles(const synapse *s) {
  (void)s;
  return 0;
}
void synapse_tiles(const synapse *s, const frame *f) { (void)s, (void)f; }
#endif
