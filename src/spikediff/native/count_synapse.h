/* A synapse of a network of whole numbers, in one pass from counts to counts. */
#ifndef COUNT_SYNAPSE_H
#define COUNT_SYNAPSE_H
#include "integers.h"

/* Neurons that listen to a current: count = how many of the thresholds it reaches. */
typedef struct { /* mirrored field by field in spikediff/systems/integer/plan.py, and so are all */
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
  const int32_t *sources;                   /* [out_pixels][taps]; in_pixels: outside the image */
  const int8_t *weights;                    /* [taps][quads][channels][4] */
  const uint8_t *raised;                    /* the same + 128 */
  int64_t in_pixels, out_pixels, out_width, taps, quads;
  int64_t counts;                           /* [in_pixels + 1][4 * quads] in an image's memory */
  int64_t kept_counts, kept_sums;           /* in an image's state; -1 where another keeps them */
  int64_t way;                              /* one of WAYS */
  outlet out;
} synapse;

enum { BY_DENSITY, DENSE, EVENTS };

/* One image on its way: its memory, its state or NULL, and what is shared by all pixels. */
typedef struct {
  uint8_t *memory, *state;
  const int32_t *bias; /* with the tables' rows, [channels] */
  lists changed;
  int32_t *rows, *changes; /* of one output pixel: [taps * quads + LISTED + 4] */
} frame;

/* The sums of output pixels first ... last - 1 from all counts. */
void synapse_dense(const synapse *s, const frame *f, int64_t first, int64_t last);
/* From what is listed, added to the kept sums or, without a state, to zero. */
void synapse_events(const synapse *s, const frame *f, int64_t first, int64_t last);

/* Sums [pixels][vecs] of outputs from `channel` on become currents and counts. */
void pass_on(const outlet *o, const frame *f, int64_t pixel, int64_t channel, int pixels, int vecs,
             const ints *sums);
#endif
