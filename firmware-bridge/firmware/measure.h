/* Times operators of the loaded model. */
#ifndef MS_MEASURE_H
#define MS_MEASURE_H

#include <stdint.h>

/* In what pf_counter names; what starting and stopping the counter takes is taken off. */
typedef struct {
  uint64_t minimum, median;
} ms_times;

/* Runs operators `first` to `first + count - 1` some times to warm caches up, then `runs` times, each with interrupts masked. */
uint32_t ms_measure(uint32_t first, uint32_t count, uint32_t warm_ups, uint32_t runs, ms_times *times);

#endif
