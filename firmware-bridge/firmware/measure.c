#include "measure.h"

#include <stddef.h>

#include "model.h"
#include "platform.h"
#include "protocol.h"

enum { EMPTY_RUNS = 5 };

static uint64_t samples[MC_MOST_RUNS];

static void sort(uint32_t count) {
  for (uint32_t i = 1; i < count; i++) {
    const uint64_t value = samples[i];
    uint32_t at = i;
    for (; at > 0 && samples[at - 1] > value; at--) samples[at] = samples[at - 1];
    samples[at] = value;
  }
}

/* The least that the counter shows for nothing. */
static uint64_t overhead(void) {
  uint64_t least = UINT64_MAX;
  for (int i = 0; i < EMPTY_RUNS; i++) {
    uint64_t counted;
    pf_counter_start();
    if (pf_counter_stop(&counted) && counted < least) least = counted;
  }
  return least;
}

uint32_t ms_measure(uint32_t first, uint32_t count, uint32_t warm_ups, uint32_t runs, ms_times *times) {
  *times = (ms_times){0, 0};
  const md_facts *model = md_model();
  if (model == NULL) return MC_STATUS_NO_MODEL;
  if (first > model->operators || count > model->operators - first || count == 0) return MC_STATUS_RANGE;
  if (runs == 0 || runs > MC_MOST_RUNS || warm_ups > MC_MOST_RUNS) return MC_STATUS_RANGE;
  /* Operators that are no part of a run have no floats to read. */
  if (first < model->operators_at_input) return MC_STATUS_RANGE;
  const uint64_t empty = overhead();
  for (uint32_t i = 0; i < warm_ups; i++) md_run_operators(first, count);
  for (uint32_t i = 0; i < runs; i++) {
    pf_counter_start();
    md_run_operators(first, count);
    if (!pf_counter_stop(&samples[i])) return MC_STATUS_OVERFLOW;
    samples[i] = samples[i] > empty ? samples[i] - empty : 0;
  }
  sort(runs);
  times->minimum = samples[0];
  times->median = runs % 2 == 1 ? samples[runs / 2] : (samples[runs / 2 - 1] + samples[runs / 2]) / 2;
  return MC_STATUS_OK;
}
