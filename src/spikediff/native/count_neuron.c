/* Integer neurons: one pass forward, one backward.
 *
 *   count = clip(round(v / theta + b), 0, D),  and with m = 1 where 0 <= v / theta + b <= D
 *   dL/dv = m dL/dcount / theta,  dL/db = sum m dL/dcount,  dL/dtheta = -sum v dL/dv / theta
 *
 * operation by operation those of spikediff/neurons/integer.py. The image lies channels
 * last, or channel by channel. The two sums are left per image, so that they do not depend on the
 * number of threads.
 */
#include <stdint.h>
#include "spikediff.h"

#define LANES 16
#define ROUND(x) (((x) + 12582912.0f) - 12582912.0f) /* to the nearest, halves to even */

/* level - level is 0, and NaN where level is not finite. */
static INLINE float count_of(float v, float theta, float bias, float levels) {
  float level = v / theta + bias;
  float clipped = level < 0.0f ? 0.0f : level > levels ? levels : level;
  return ROUND(clipped) + (level - level);
}

static INLINE float passed(float grad, float v, float theta, float bias, float levels) {
  float level = v / theta + bias;
  return level >= 0.0f && level <= levels ? grad : 0.0f;
}

EXPORT void count_neuron_forward(const float *v, const float *theta, const float *bias, float *count,
                                 int64_t images, int64_t channels, int64_t pixels, int last,
                                 float levels, int threads) {
  (void)threads;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t image = 0; image < images; image++) {
    const float *restrict x = v + image * channels * pixels;
    float *restrict y = count + image * channels * pixels;
    if (last) {
      for (int64_t p = 0; p < pixels; p++)
        for (int64_t c = 0; c < channels; c++)
          y[p * channels + c] = count_of(x[p * channels + c], theta[c], bias[c], levels);
    } else {
      for (int64_t c = 0; c < channels; c++)
        for (int64_t p = 0; p < pixels; p++)
          y[c * pixels + p] = count_of(x[c * pixels + p], theta[c], bias[c], levels);
    }
  }
}

/* One channel of an image: its two sums, by lanes. */
static INLINE void channel_backward(const float *restrict x, const float *restrict above,
                                    float *restrict grad, int64_t pixels, float theta, float bias,
                                    float levels, float *of_theta, float *of_bias) {
  float theta_lanes[LANES] = {0}, bias_lanes[LANES] = {0};
  int64_t p = 0;
  for (; p + LANES <= pixels; p += LANES)
    for (int i = 0; i < LANES; i++) {
      float g = passed(above[p + i], x[p + i], theta, bias, levels), to_v = g / theta;
      grad[p + i] = to_v;
      theta_lanes[i] += to_v * x[p + i];
      bias_lanes[i] += g;
    }
  for (; p < pixels; p++) {
    float g = passed(above[p], x[p], theta, bias, levels), to_v = g / theta;
    grad[p] = to_v;
    theta_lanes[0] += to_v * x[p];
    bias_lanes[0] += g;
  }
  float t = 0.0f, b = 0.0f;
  for (int i = 0; i < LANES; i++) t += theta_lanes[i], b += bias_lanes[i];
  *of_theta = t, *of_bias = b;
}

/* sums [images, 2, channels]: of v dL/dv, and of m dL/dcount. */
EXPORT void count_neuron_backward(const float *above, const float *v, const float *theta,
                                  const float *bias, float *grad, float *sums, int64_t images,
                                  int64_t channels, int64_t pixels, int last, float levels,
                                  int threads) {
  (void)threads;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t image = 0; image < images; image++) {
    const int64_t at = image * channels * pixels;
    const float *restrict x = v + at, *restrict g = above + at;
    float *restrict out = grad + at;
    float *restrict of_theta = sums + image * 2 * channels, *restrict of_bias = of_theta + channels;
    if (!last) {
      for (int64_t c = 0; c < channels; c++)
        channel_backward(x + c * pixels, g + c * pixels, out + c * pixels, pixels, theta[c], bias[c],
                         levels, of_theta + c, of_bias + c);
      continue;
    }
    for (int64_t c = 0; c < channels; c++) of_theta[c] = of_bias[c] = 0.0f;
    for (int64_t p = 0; p < pixels; p++)
      for (int64_t c = 0; c < channels; c++) {
        const int64_t i = p * channels + c;
        float inside = passed(g[i], x[i], theta[c], bias[c], levels), to_v = inside / theta[c];
        out[i] = to_v;
        of_theta[c] += to_v * x[i];
        of_bias[c] += inside;
      }
  }
}
