/*
 * The model that is loaded: an image in a slot, prepared in the workspace. Inputs that an image only quantizes are quantized as they
 * arrive, so that their floats, four times the size of their codes, need no RAM. All of these answer an MC_STATUS_* where they can fail.
 */
#ifndef MD_MODEL_H
#define MD_MODEL_H

#include <stdint.h>

#include "../../native/engine/engine.h"

typedef struct {
  uint32_t operators, operators_at_input, inputs, outputs;
  uint32_t prepared_bytes, arena_bytes, scratch_bytes, buffer_bytes;
  /* Whose windows of the input arrive one after the other; 0: the input arrives as a whole. */
  uint32_t patches;
} md_facts;

/* Checks and prepares the image of a slot; what was loaded is gone, also where this fails. `detail` is that of the protocol. */
uint32_t md_load(uint32_t slot, uint32_t *detail);
void md_unload(void);
/* MC_NO_SLOT: nothing is loaded. */
uint32_t md_loaded_slot(void);
/* NULL: nothing is loaded. So far as something is loaded, the following may be called. */
const md_facts *md_model(void);

uint32_t md_operator_kind(uint32_t index);
const char *md_kernel_name(uint32_t index);
/* Of an input (IM_PLACE_INPUT) or an output (IM_PLACE_OUTPUT); 0 where there is none. */
uint32_t md_elements(uint32_t place, uint32_t index);

/* Of a patch, below `patches`. */
void md_window(uint32_t patch, en_window_of_input *window);
/*
 * In order; what was written already may be written again. With patches, to the window of the next one that is to run; patch 0 begins anew.
 * Otherwise `patch` is 0.
 */
uint32_t md_write_input(uint32_t input, uint32_t patch, uint32_t offset, const float *values, uint32_t count);
/* Runs the patch whose window is complete; `ticks` are of the counter, 0 where it went around. */
uint32_t md_run_patch(uint32_t patch, uint64_t *ticks);
/* Runs once, or what is behind the patches once all of them have run. */
uint32_t md_run(uint64_t *ticks);
uint32_t md_read_output(uint32_t output, uint32_t offset, uint32_t count, const float **values);
/* Runs some operators on whatever is in the arena; indices are in range. Uses up the inputs. */
void md_run_operators(uint32_t first, uint32_t count);

/* Bytes of the arena up to the last one that differs from what md_load filled it with. */
uint32_t md_arena_used(void);
/* Of the workspace, by any model since the start. */
uint32_t md_most_used(void);

#endif
