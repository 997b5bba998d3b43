/* A network of whole numbers: from the image in floating point through all layers and back.
 *
 * An image has memory (counts, currents, lists) for the time of a call and, if it is to go on from
 * its last call, a state: counts and sums of every synapse. A thread takes some images at a time and
 * computes them layer by layer, so that they share the weights in the cache.
 */
#include "count_synapse.h"

/* The first convolution: of the image in fixed point, 16-bit numbers in pairs. */
typedef struct {
  const int32_t *sources;       /* [pixels][taps] */
  const int16_t *weights;       /* [taps][pairs][channels][2] */
  const int32_t *right;         /* [channels]: sums are rounded and shifted before out.left */
  int64_t pixels, taps, pairs;
  int64_t image;                /* in an image's memory: int16 [pixels + 1][2 * pairs] */
  outlet out;
} stem;

typedef struct {
  const int32_t *places;        /* of a sample's numbers, by pixel and channel [pixels][values] */
  int64_t pixels, values, answer; /* int32 [pixels][answer_channels] in an image's memory */
  int64_t answer_channels;
  int64_t fraction_bits, image_fraction_bits;
  int64_t memory_bytes, state_bytes; /* of an image */
  int64_t most_listed, most_columns, most_rows, most_channels; /* of lists, a pixel, a bias */
  int64_t synapses;
  const synapse *synapse;
  stem stem;
} network;

/* What was found at a synapse: how many images, how many of them densely, how many whose quads were
 * listed, and those quads. */
typedef struct {
  int64_t images, dense, listed, quads;
} tally;

#define TOGETHER 4  /* images that a thread computes at a time */
#define STEM_TILE 4 /* pixels */

/* Whether the dense kernel is faster, by the share of changed quads (docs/performance.md). */
static INLINE int is_dense(const synapse *s, int64_t quads, int tiled) {
  const int64_t percent = tiled ? 12 : s->kernel == 1 ? 20 : 33;
  return s->way == DENSE || (s->way == BY_DENSITY && 100 * quads > percent * quads_of(s));
}

/* The biases of one image: with its timestep's and class's rows. */
static void fill_bias(const outlet *o, int64_t timestep, int64_t class_, int32_t *bias) {
  for (int64_t c = 0; c < o->channels; c++) bias[c] = o->bias[c];
  if (!o->of_timestep) return;
  const int16_t *a = o->of_timestep + timestep * o->channels;
  const int16_t *b = o->of_class + class_ * o->channels;
  for (int64_t c = 0; c < o->channels; c++) bias[c] += ((int32_t)a[c] + b[c]) * (1 << o->table_left);
}

static void run_synapse(const synapse *s, frame *f, tally *tallied) {
  const int tiled = synapse_fits_tiles(s);
  const int listed = !tiled || s->way != BY_DENSITY || f->state; /* else tiles are faster than a list */
  if (listed && s->kept_counts >= 0) f->quads = synapse_list(s, f);
  const int dense = !listed || is_dense(s, f->quads, tiled);
  (!dense ? synapse_events : tiled ? synapse_tiles : synapse_dense)(s, f);
  tallied->images++;
  tallied->dense += dense;
  tallied->listed += listed;
  tallied->quads += listed ? f->quads : 0;
}

static void run_stem(const network *n, const float *sample, const frame *f) {
  const stem *s = &n->stem;
  int16_t *image = (int16_t *)(f->memory + s->image);
  const float unit = (float)(1 << n->image_fraction_bits);
  const int64_t width = 2 * s->pairs, row = 2 * s->out.channels;
  for (int64_t p = 0; p < s->pixels; p++)
    for (int64_t v = 0; v < n->values; v++) {
      const float x = sample[n->places[p * n->values + v]] * unit;
      image[p * width + v] = (int16_t)rintf(x < -32768.0f ? -32768.0f : x > 32767.0f ? 32767.0f : x);
    }
  for (int64_t p = 0; p < s->pixels; p += STEM_TILE)
    for (int64_t c = 0; c < s->out.channels; c += VEC_LANES) {
      const int many = s->pixels - p < STEM_TILE ? (int)(s->pixels - p) : STEM_TILE;
      const ints right = LOAD_INTS(s->right + c), half = (fill_ints(1) << right) >> 1;
      ints sum[STEM_TILE] = {{0}};
      const int16_t *weights = s->weights + 2 * c;
      for (int64_t tap = 0; tap < s->taps; tap++) {
        const int16_t *at[STEM_TILE];
        for (int i = 0; i < STEM_TILE; i++)
          at[i] = image + s->sources[(p + (i < many ? i : 0)) * s->taps + tap] * width;
        for (int64_t pair = 0; pair < s->pairs; pair++, weights += row) {
          const ints w = LOAD_INTS(weights);
#pragma GCC unroll 4
          for (int i = 0; i < STEM_TILE; i++)
            sum[i] = dot_shorts(sum[i], fill_ints(quad_at(at[i] + 2 * pair)), w);
        }
      }
      for (int i = 0; i < STEM_TILE; i++) sum[i] = (sum[i] + half) >> right;
      pass_on(&s->out, f, p, c, many, 1, sum);
    }
}

static void answer_of(const network *n, const frame *f, float *answer) {
  const int32_t *from = (const int32_t *)(f->memory + n->answer);
  const float unit = 1.0f / (float)(1 << n->fraction_bits);
  for (int64_t p = 0; p < n->pixels; p++)
    for (int64_t v = 0; v < n->values; v++)
      answer[n->places[p * n->values + v]] = (float)from[p * n->answer_channels + v] * unit;
}

/* Numbers behind the memory of an image: lists, a pixel's rows, a bias. */
static int64_t workspace(const network *n) {
  return 2 * (n->most_listed + n->most_columns + n->most_rows + LISTED + SETS) + n->most_channels;
}

EXPORT int64_t integer_network_bytes(const network *n) {
  return n->memory_bytes + (4 * workspace(n) + 63) / 64 * 64;
}

static frame frame_of(const network *n, uint8_t *memory, uint8_t *state) {
  int32_t *at = (int32_t *)(memory + n->memory_bytes);
  frame f = {memory, state, at, {at + n->most_channels, NULL, NULL, NULL}, NULL, NULL, 0};
  f.changed.changes = f.changed.quads + n->most_listed;
  f.changed.starts = f.changed.changes + n->most_listed;
  f.changed.sums = f.changed.starts + n->most_columns;
  f.rows = f.changed.sums + n->most_columns;
  f.changes = f.rows + n->most_rows + LISTED + SETS;
  return f;
}

/* What a call is given, of all images. */
typedef struct {
  const float *sample;
  const int64_t *timesteps, *classes;
  float *answer;
  uint8_t *state;
} call;

static void run_images(const network *n, const call *c, int64_t first, int64_t images,
                       uint8_t *memory, tally *tallied) {
  const int64_t numbers = n->pixels * n->values, bytes = integer_network_bytes(n);
  frame frames[TOGETHER];
  for (int64_t i = 0; i < images; i++) {
    const int64_t image = first + i;
    uint8_t *state = c->state ? c->state + image * n->state_bytes : NULL;
    frames[i] = frame_of(n, memory + i * bytes, state);
    fill_bias(&n->stem.out, 0, 0, frames[i].bias);
    run_stem(n, c->sample + image * numbers, frames + i);
  }
  for (int64_t layer = 0; layer < n->synapses; layer++)
    for (int64_t i = 0; i < images; i++) {
      const synapse *s = n->synapse + layer;
      fill_bias(&s->out, c->timesteps[first + i], c->classes[first + i], frames[i].bias);
      run_synapse(s, frames + i, tallied + layer);
    }
  for (int64_t i = 0; i < images; i++)
    answer_of(n, frames + i, c->answer + (first + i) * numbers);
}

/* Images whose memory a thread needs. */
EXPORT int integer_network_together(void) { return TOGETHER; }

/* sample -> answer, float32 [images, numbers]; timesteps and classes [images]; memory [threads,
 * TOGETHER] of integer_network_bytes, zero at first; state [images] of state_bytes, zero at first, or
 * NULL; tallies [threads, synapses]. -1: a number of the sample is not finite. */
EXPORT int integer_network_run(const network *n, const float *sample, const int64_t *timesteps,
                               const int64_t *classes, float *answer, uint8_t *memory,
                               uint8_t *state, tally *tallies, int64_t images, int threads) {
  const call c = {sample, timesteps, classes, answer, state};
  const int64_t numbers = images * n->pixels * n->values, bytes = integer_network_bytes(n);
  const int64_t fair = (images + threads - 1) / threads, most = fair < TOGETHER ? fair : TOGETHER;
  int strange = 0;
  for (int64_t i = 0; i < numbers; i++) strange |= !(sample[i] - sample[i] == 0.0f);
  if (strange) return -1;
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
  for (int64_t first = 0; first < images; first += most) {
    const int rank = thread_number();
    const int64_t many = images - first < most ? images - first : most;
    run_images(n, &c, first, many, memory + rank * TOGETHER * bytes, tallies + rank * n->synapses);
  }
  return 0;
}

/* One synapse on its own: counts [images][pixels + 1][4 * quads], the last pixel silent, state
 * [images] of `state_bytes` as the synapse lays it out; the sums are what it keeps. */
EXPORT void integer_convolution(const network *n, uint8_t *counts, int64_t count_bytes,
                                uint8_t *memory, uint8_t *state, int64_t images, int threads) {
  const int64_t bytes = integer_network_bytes(n);
  (void)threads;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t i = 0; i < images; i++) {
    tally ignored = {0};
    frame f = frame_of(n, memory + thread_number() * bytes, state + i * n->state_bytes);
    memset(f.bias, 0, 4 * (size_t)n->most_channels);
    f.memory = counts + i * count_bytes;
    run_synapse(n->synapse, &f, &ignored);
  }
}
