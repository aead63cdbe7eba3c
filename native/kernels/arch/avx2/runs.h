/*
 * How long 16-bit sums of u8 codes by s8 weights may run before they must be widened. Weights are constants, so this is certified from
 * them and not assumed from their bit-width: a run ends only where some lane's sum could leave 16 bits, whatever the codes are.
 */
#ifndef KN_AVX2_RUNS_H
#define KN_AVX2_RUNS_H

#include "common.h"

/* Worst sums of one 16-bit lane. */
typedef struct {
  int32_t low, high;
} kn_lane;

static inline void kn_lane_add(kn_lane *lane, int32_t weight, int32_t top) {
  if (weight > 0) lane->high += weight * top;
  if (weight < 0) lane->low += weight * top;
}

static inline int kn_lane_fits(const kn_lane *lane) { return lane->high <= INT16_MAX && lane->low >= INT16_MIN; }

/* Whether one product of a pair, as vpmaddubsw has it, never saturates, for codes up to `top`. */
static inline int kn_pair_fits(int32_t first, int32_t second, int32_t top) {
  kn_lane lane = {0, 0};
  kn_lane_add(&lane, first, top);
  kn_lane_add(&lane, second, top);
  return kn_lane_fits(&lane);
}

/* Lengths of the runs over `steps` steps of a panel [steps][32 lanes][2 weights] whose pairs all fit; returns how many there are. */
static inline int32_t kn_find_runs(const int8_t *weights, int32_t steps, int32_t top, uint16_t *runs) {
  kn_lane lanes[32];
  int32_t count = 0, length = 0;
  memset(lanes, 0, sizeof lanes);
  for (int32_t k = 0; k < steps; k++, weights += 64) {
    kn_lane grown[32];
    int fits = length < UINT16_MAX;
    for (int32_t i = 0; i < 32; i++) {
      grown[i] = lanes[i];
      kn_lane_add(&grown[i], weights[2 * i], top);
      kn_lane_add(&grown[i], weights[2 * i + 1], top);
      fits &= kn_lane_fits(&grown[i]);
    }
    if (fits) {
      memcpy(lanes, grown, sizeof lanes);
      length++;
      continue;
    }
    runs[count++] = (uint16_t)length;
    length = 1;
    memset(lanes, 0, sizeof lanes);
    for (int32_t i = 0; i < 32; i++) {
      kn_lane_add(&lanes[i], weights[2 * i], top);
      kn_lane_add(&lanes[i], weights[2 * i + 1], top);
    }
  }
  runs[count++] = (uint16_t)length;
  return count;
}

/* Output channels of the widest panel that kn_find_channel_runs knows. */
enum { KN_RUN_CHANNELS = 64 };

/*
 * The same for `count` channels from `first` on, in steps of 2 or 4 codes, and lanes that sum two weights of a step and hold no more than
 * `limit`, or less than its negative by one. What sums are on the way does not matter, as they wrap around.
 */
static inline int32_t kn_find_channel_runs(const kn_convolution *c, int32_t first, int32_t count, int32_t step, int32_t limit,
                                           uint16_t *runs) {
  const int32_t row = c->kernel_height * c->kernel_width * (c->in_channels / c->groups), top = (1 << c->input_bits) - 1;
  kn_lane sums[2 * KN_RUN_CHANNELS], added[2 * KN_RUN_CHANNELS];
  int32_t found = 0, length = 0;
  memset(sums, 0, sizeof sums);
  for (int32_t begin = 0; begin < row; begin += step) {
    int fits = length < UINT16_MAX;
    memset(added, 0, sizeof added);
    for (int32_t o = 0; o < count; o++) {
      for (int32_t i = begin; i < kn_min(row, begin + step); i++) {
        kn_lane_add(&added[2 * o + (i - begin) / 2], kn_weight(c, first + o, i), top);
      }
    }
    for (int32_t i = 0; i < 2 * count; i++) fits &= sums[i].high + added[i].high <= limit && sums[i].low + added[i].low >= -limit - 1;
    if (!fits) {
      runs[found++] = (uint16_t)length;
      length = 0;
      memset(sums, 0, sizeof sums);
    }
    length++;
    for (int32_t i = 0; i < 2 * count; i++) sums[i].low += added[i].low, sums[i].high += added[i].high;
  }
  runs[found++] = (uint16_t)length;
  return found;
}

#endif
