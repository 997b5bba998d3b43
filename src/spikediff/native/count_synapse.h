/* A synapse of a network of whole numbers, in one pass from counts to counts. */
#ifndef COUNT_SYNAPSE_H
#define COUNT_SYNAPSE_H
#include "integers.h"

/* Neurons that listen to a current: count = how many of the thresholds it reaches. */
typedef struct { /* mirrored field by field in spikediff/systems/integer/structures.py, and so are all */
  const int32_t *thresholds;                /* [levels][channels] */
  int64_t levels, counts, pixel_bytes;      /* where the counts go in an image's memory */
} listener;

#define LISTENERS 2

/* What becomes of a sum: current = (sum << left) + bias (+ rows of tables << table_left) + residual;
 * it is kept for a later residual, and listened to. */
typedef struct {
  const int32_t *left, *bias;               /* [channels] */
  const int16_t *of_timestep, *of_class;    /* rows of [channels], or NULL */
  int64_t table_left, channels;             /* a multiple of 16 */
  int64_t residual, current;                /* in an image's memory; -1 */
  int64_t listeners;
  listener listener[LISTENERS];
} outlet;

typedef struct {
  const int32_t *sources;                   /* pixels that the taps read [outputs][taps]; the last
                                               is outside the image */
  const int8_t *weights;                    /* [taps][quads][channels][4] */
  const uint8_t *raised;                    /* the same + 128 */
  int64_t in_height, in_width, doubled;     /* doubled: every pixel is repeated 2x2 */
  int64_t kernel, stride, padding, out_height, out_width, quads;
  int64_t counts;                           /* [in_height * in_width + 1][4 * quads] in memory */
  int64_t kept_counts, kept_sums;           /* in an image's state; -1 where another keeps them */
  int64_t way;                              /* one of WAYS */
  outlet out;
} synapse;

enum { BY_DENSITY, DENSE, EVENTS };

/* One image on its way: its memory, its state or NULL, and what is shared by all pixels. */
typedef struct {
  uint8_t *memory, *state;
  int32_t *bias; /* with the tables' rows, [channels] */
  lists changed;
  int32_t *rows, *changes; /* of one output pixel: [taps * quads + LISTED + SETS] */
  int64_t quads;           /* that were listed */
} frame;

#define SETS 4 /* of sums, that hide the latency of an addition */

/* Columns that are listed. */
static INLINE int64_t columns_of(const synapse *s) { return s->in_width << s->doubled; }

/* Quads of an image. */
static INLINE int64_t quads_of(const synapse *s) {
  return s->in_height * columns_of(s) * s->quads;
}

/* The sums of all output pixels from all counts. */
void synapse_dense(const synapse *s, const frame *f);
/* The same by matrix tiles, where the processor has them and the channels fill them. */
int synapse_fits_tiles(const synapse *s);
void synapse_tiles(const synapse *s, const frame *f);
/* List what changed, and keep the counts; returns how many quads. */
int64_t synapse_list(const synapse *s, const frame *f);
/* From what is listed, added to the kept sums or, without a state, to zero. */
void synapse_events(const synapse *s, const frame *f);

/* Sums [pixels][vecs] of outputs from `channel` on become currents and counts. */
void pass_on(const outlet *o, const frame *f, int64_t pixel, int64_t channel, int pixels, int vecs,
             const ints *sums);
#endif
