/* A network of whole numbers: from the image in floating point through all layers and back.
 *
 * An image has a memory of its own (counts, currents) that a thread uses for one image after the
 * other, and, if it is to go on from its last call, a state: counts and sums of every synapse.
 * Threads take images; where there are too few, they share the pixels of each layer.
 */
#if !defined(_WIN32)
#include <sched.h>
#endif
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
  int64_t most_pixels, most_quads, most_rows, most_channels; /* of the lists and biases */
  int64_t synapses;
  const synapse *synapse;
  stem stem;
} network;

/* What was found at a synapse, over all images: how many, how many densely, and changed quads. */
typedef struct {
  int64_t images, dense, quads;
} tally;

/* Threads that work on the same image. */
typedef struct {
  int32_t size, waiting, round;
  int64_t found[64]; /* quads that every thread listed */
} team;

#define MOST_TEAM 64
#define SPINS 4000
/* Share of changed quads above which the dense kernel is faster (docs/performance.md). */
#define DENSE_FROM(quads, all) (100 * (quads) > 55 * (all))

static INLINE int32_t team_size(void) {
#if defined(_OPENMP)
  return omp_get_num_threads();
#else
  return 1;
#endif
}

static void meet(team *t) {
  if (t->size == 1) return;
  const int32_t round = __atomic_load_n(&t->round, __ATOMIC_ACQUIRE);
  if (__atomic_add_fetch(&t->waiting, 1, __ATOMIC_ACQ_REL) == t->size) {
    __atomic_store_n(&t->waiting, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&t->round, round + 1, __ATOMIC_RELEASE);
    return;
  }
  for (int spins = 0; __atomic_load_n(&t->round, __ATOMIC_ACQUIRE) == round; spins++) {
#if !defined(_WIN32)
    if (spins > SPINS) sched_yield();
#endif
#if defined(__x86_64__)
    else __builtin_ia32_pause();
#endif
  }
}

static INLINE int64_t share(int64_t all, int rank, const team *t) { return all * rank / t->size; }

static void list_image(const synapse *s, frame *f, int rank, team *t) {
  const int64_t room = (s->quads + LISTED - 1) / LISTED * LISTED;
  const int64_t last = share(s->in_pixels, rank + 1, t);
  const uint8_t *now = f->memory + s->counts;
  uint8_t *before = f->state ? f->state + s->kept_counts : NULL;
  int64_t found = 0;
  for (int64_t p = share(s->in_pixels, rank, t); p < last; p++) {
    const int32_t n = list_quads(now + p * 4 * s->quads, before ? before + p * 4 * s->quads : NULL,
                                 s->quads, f->changed.quads + p * room,
                                 f->changed.changes + p * room, f->changed.sums + p);
    f->changed.numbers[p] = n;
    found += n;
  }
  if (rank == t->size - 1) f->changed.numbers[s->in_pixels] = f->changed.sums[s->in_pixels] = 0;
  t->found[rank] = found;
}

/* The biases of one image: with its timestep's and class's rows. */
static void fill_bias(const outlet *o, int64_t timestep, int64_t class_, int32_t *bias) {
  for (int64_t c = 0; c < o->channels; c++) bias[c] = o->bias[c];
  if (!o->of_timestep) return;
  const int16_t *a = o->of_timestep + timestep * o->channels;
  const int16_t *b = o->of_class + class_ * o->channels;
  for (int64_t c = 0; c < o->channels; c++) bias[c] += ((int32_t)a[c] + b[c]) * (1 << o->table_left);
}

static void run_synapse(const synapse *s, frame *f, int64_t *quads, tally *tallied, int rank,
                        team *t) {
  if (s->kept_counts >= 0) {
    list_image(s, f, rank, t);
    meet(t);
    *quads = 0;
    for (int i = 0; i < t->size; i++) *quads += t->found[i];
  }
  const int64_t all = s->in_pixels * s->quads;
  const int dense = s->way == DENSE || (s->way == BY_DENSITY && DENSE_FROM(*quads, all));
  const int64_t first = share(s->out_pixels, rank, t), last = share(s->out_pixels, rank + 1, t);
  (dense ? synapse_dense : synapse_events)(s, f, first, last);
  if (rank == 0 && tallied) {
    tallied->images++;
    tallied->dense += dense;
    tallied->quads += *quads;
  }
  meet(t);
}

static void run_stem(const network *n, const float *sample, frame *f, int rank, team *t) {
  const stem *s = &n->stem;
  int16_t *image = (int16_t *)(f->memory + s->image);
  const float unit = (float)(1 << n->image_fraction_bits);
  const int64_t width = 2 * s->pairs, last = share(s->pixels, rank + 1, t);
  for (int64_t p = share(s->pixels, rank, t); p < last; p++)
    for (int64_t v = 0; v < n->values; v++) {
      const float x = sample[n->places[p * n->values + v]] * unit;
      image[p * width + v] = (int16_t)rintf(x < -32768.0f ? -32768.0f : x > 32767.0f ? 32767.0f : x);
    }
  meet(t);
  const int64_t row = 2 * s->out.channels;
  for (int64_t p = share(s->pixels, rank, t); p < last; p++)
    for (int64_t c = 0; c < s->out.channels; c += VEC_LANES) {
      ints sum = {0};
      const int16_t *weights = s->weights + 2 * c;
      for (int64_t tap = 0; tap < s->taps; tap++) {
        const int16_t *at = image + s->sources[p * s->taps + tap] * width;
        for (int64_t pair = 0; pair < s->pairs; pair++, weights += row)
          sum = dot_shorts(sum, fill_ints(quad_at(at + 2 * pair)), LOAD_INTS(weights));
      }
      const ints right = LOAD_INTS(s->right + c), half = (fill_ints(1) << right) >> 1;
      sum = (sum + half) >> right;
      pass_on(&s->out, f, p, c, 1, 1, &sum);
    }
  meet(t);
}

static void answer_of(const network *n, const frame *f, float *answer) {
  const int32_t *from = (const int32_t *)(f->memory + n->answer);
  const float unit = 1.0f / (float)(1 << n->fraction_bits);
  for (int64_t p = 0; p < n->pixels; p++)
    for (int64_t v = 0; v < n->values; v++)
      answer[n->places[p * n->values + v]] = (float)from[p * n->answer_channels + v] * unit;
}

/* Memory behind that of an image: lists, a pixel's rows, a bias. */
static size_t workspace_bytes(const network *n) {
  const int64_t room = (n->most_quads + LISTED - 1) / LISTED * LISTED;
  return 4 * (size_t)((n->most_pixels + 1) * (2 * room + 2) + 2 * (n->most_rows + LISTED + 4) +
                      n->most_channels);
}

EXPORT int64_t integer_network_bytes(const network *n) {
  return n->memory_bytes + (int64_t)((workspace_bytes(n) + 63) / 64 * 64);
}

static frame frame_of(const network *n, uint8_t *memory, uint8_t *state) {
  const int64_t room = (n->most_quads + LISTED - 1) / LISTED * LISTED, pixels = n->most_pixels + 1;
  const int64_t rows = n->most_rows + LISTED + 4;
  int32_t *at = (int32_t *)(memory + n->memory_bytes);
  frame f = {memory, state, at, {at + n->most_channels, NULL, NULL, NULL}, NULL, NULL};
  f.changed.changes = f.changed.quads + pixels * room;
  f.changed.numbers = f.changed.changes + pixels * room;
  f.changed.sums = f.changed.numbers + pixels;
  f.rows = f.changed.sums + pixels;
  f.changes = f.rows + rows;
  return f;
}

static void run_image(const network *n, const float *sample, int64_t timestep, int64_t class_,
                      float *answer, uint8_t *shared, uint8_t *own, uint8_t *state, tally *tallied,
                      int rank, team *t) {
  frame f = frame_of(n, shared, state);
  const frame mine = frame_of(n, own, state); /* a team shares counts and lists, not these */
  f.bias = mine.bias;
  f.rows = mine.rows;
  f.changes = mine.changes;
  fill_bias(&n->stem.out, timestep, class_, (int32_t *)f.bias);
  run_stem(n, sample, &f, rank, t);
  int64_t quads = 0;
  for (int64_t i = 0; i < n->synapses; i++) {
    fill_bias(&n->synapse[i].out, timestep, class_, (int32_t *)f.bias);
    run_synapse(n->synapse + i, &f, &quads, tallied + i, rank, t);
  }
  if (rank == 0) answer_of(n, &f, answer);
  meet(t);
}

/* sample -> answer, float32 [images, numbers]; timesteps and classes [images]; memory [threads] of
 * integer_network_bytes, zero at first; state [images] of state_bytes, zero at first, or NULL;
 * tallies [threads, synapses]. -1: a number of the sample is not finite. */
EXPORT int integer_network_run(const network *n, const float *sample, const int64_t *timesteps,
                               const int64_t *classes, float *answer, uint8_t *memory,
                               uint8_t *state, tally *tallies, int64_t images, int threads) {
  const int64_t numbers = n->pixels * n->values, bytes = integer_network_bytes(n);
  int strange = 0;
  for (int64_t i = 0; i < images * numbers; i++) strange |= !(sample[i] - sample[i] == 0.0f);
  if (strange) return -1;
  const int together = images % threads && images < 2 * threads && threads <= MOST_TEAM;
  team all = {1, 0, 0, {0}};
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const int rank = thread_number();
    team alone = {1, 0, 0, {0}};
#pragma omp single
    all.size = team_size();
    uint8_t *own = memory + rank * bytes;
    tally *tallied = tallies + rank * n->synapses;
#define RUN(SHARED, RANK, TEAM)                                                                   \
  run_image(n, sample + i * numbers, timesteps[i], classes[i], answer + i * numbers, SHARED, own, \
            state ? state + i * n->state_bytes : NULL, tallied, RANK, TEAM)
    if (together) {
      for (int64_t i = 0; i < images; i++) RUN(memory, rank, &all);
    } else {
#pragma omp for schedule(dynamic)
      for (int64_t i = 0; i < images; i++) RUN(own, 0, &alone);
    }
#undef RUN
  }
  return 0;
}

/* One synapse on its own: counts [images][in_pixels + 1][4 * quads], the last pixel silent, state
 * [images] of `state_bytes` as the synapse lays it out; the sums are what it keeps. */
EXPORT void integer_convolution(const network *n, uint8_t *counts, int64_t count_bytes,
                                uint8_t *memory, uint8_t *state, int64_t images, int threads) {
  const int64_t bytes = integer_network_bytes(n);
  (void)threads;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t i = 0; i < images; i++) {
    team alone = {1, 0, 0, {0}};
    frame f = frame_of(n, memory + thread_number() * bytes, state + i * n->state_bytes);
    int64_t quads = 0;
    memset((int32_t *)f.bias, 0, 4 * (size_t)n->most_channels);
    f.memory = counts + i * count_bytes;
    run_synapse(n->synapse, &f, &quads, NULL, 0, &alone);
  }
}
