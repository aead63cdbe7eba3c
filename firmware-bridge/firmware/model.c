#include "model.h"

#include <string.h>

#include "../../native/engine/engine.h"
#include "../../native/engine/patch.h"
#include "platform.h"
#include "protocol.h"
#include "store.h"

enum { MOST_TENSORS = 8, MARK = 0xa5 };

static struct {
  uint32_t slot;
  const uint8_t *image;
  en_model *model;
  uint8_t *arena, *scratch;
  float *inputs[MOST_TENSORS], *outputs[MOST_TENSORS];
  /* Elements of each input, with patches of the window of the next patch that is to run. */
  uint32_t received[MOST_TENSORS];
  uint32_t next_patch;
  uint8_t has_outputs;
  md_facts facts;
} loaded = {.slot = MC_NO_SLOT};

static uint32_t most_used;

static const uint32_t *header(void) { return en_header(loaded.image); }

/* The record of an input or an output by its number; NULL where there is none. */
static const uint32_t *tensor_at(uint32_t place, uint32_t index) {
  for (uint32_t i = 0; i < header()[IM_HEADER_TENSOR_COUNT]; i++) {
    const uint32_t *tensor = en_tensor(loaded.image, i);
    if (tensor[IM_TENSOR_PLACE] == place && tensor[IM_TENSOR_OFFSET] == index) return tensor;
  }
  return NULL;
}

static const uint32_t *first_record(void) { return header() + header()[IM_HEADER_OPERATOR_OFFSET] / 4; }

/* How many of the first operators quantize inputs and nothing else does anything with an input; otherwise 0: inputs are kept as floats. */
static uint32_t operators_at_input(void) {
  const uint32_t *words = first_record();
  uint32_t count = 0;
  int is_leading = 1;
  for (uint32_t i = 0; i < header()[IM_HEADER_OPERATOR_COUNT]; i++, words += words[IM_OPERATOR_WORDS]) {
    const en_record record = en_record_at(words);
    int reads_input = 0;
    for (uint32_t k = 0; k < record.input_count; k++)
      reads_input |= en_tensor(loaded.image, record.inputs[k])[IM_TENSOR_PLACE] == IM_PLACE_INPUT;
    is_leading = is_leading && reads_input && record.kind == IM_KIND_QUANTIZE;
    if (is_leading) count++;
    else if (reads_input) return 0;
  }
  /* Windows of patches arrive one after the other, which nothing else that reads the input could do with. */
  const en_stage stage = en_stage_of(loaded.image);
  return stage.patches > 0 && (uint32_t)stage.first < count && count > 1 ? 0 : count;
}

/* Hands out the workspace from its begin, as far as it goes; counts beyond. */
typedef struct {
  uint8_t *memory;
  uint64_t room, used;
} supply;

static void *take(supply *from, uint64_t bytes) {
  const uint64_t start = from->used;
  from->used += (bytes + KN_ALIGNMENT - 1) / KN_ALIGNMENT * KN_ALIGNMENT;
  return from->used > from->room ? NULL : from->memory + start;
}

/* Floats for the tensors of one place. */
static void take_buffers(supply *from, uint32_t place, uint32_t count, float **buffers) {
  for (uint32_t i = 0; i < count; i++) buffers[i] = take(from, 4 * (uint64_t)tensor_at(place, i)[IM_TENSOR_ELEMENTS]);
}

/*
 * Lays a checked image out in the workspace. Whatever kernels this build has, this processor runs. Weights that the image has packed are
 * executed where they lie; others take memory in the form of their kernel.
 */
static uint32_t lay_out(uint32_t *detail) {
  const en_options options = {.features = UINT32_MAX, .only_kernel = 0};
  md_facts *facts = &loaded.facts;
  uint32_t room;
  uint8_t *workspace = pf_workspace(&room);
  supply from = {workspace, room, 0};
  facts->operators = header()[IM_HEADER_OPERATOR_COUNT];
  facts->inputs = header()[IM_HEADER_INPUT_COUNT];
  facts->outputs = header()[IM_HEADER_OUTPUT_COUNT];
  if (facts->inputs > MOST_TENSORS || facts->outputs > MOST_TENSORS) return MC_STATUS_RANGE;
  facts->operators_at_input = operators_at_input();
  const size_t prepared = en_memory_bytes(loaded.image, &options);
  void *memory = take(&from, prepared);
  /* The header's own number, since sizes of a hostile image leave 32 bits. */
  const uint64_t arena = (uint64_t)header()[IM_HEADER_ARENA_BYTES] + KN_SLACK;
  loaded.arena = take(&from, arena);
  const uint64_t before = from.used;
  if (facts->operators_at_input == 0) take_buffers(&from, IM_PLACE_INPUT, facts->inputs, loaded.inputs);
  take_buffers(&from, IM_PLACE_OUTPUT, facts->outputs, loaded.outputs);
  const uint64_t buffers = from.used - before;
  if (from.used <= room) {
    if (en_prepare(loaded.image, &options, memory, prepared, &loaded.model).status != EN_OK) return MC_STATUS_MEMORY;
    facts->scratch_bytes = (uint32_t)en_scratch_bytes(loaded.model);
    loaded.scratch = take(&from, facts->scratch_bytes);
  }
  if (from.used > room) {
    *detail = from.used > UINT32_MAX ? UINT32_MAX : (uint32_t)from.used;
    return MC_STATUS_MEMORY;
  }
  en_window_of_input window;
  const int is_streamed = facts->operators_at_input == 1 && en_patch_count(loaded.model) > 0 && en_window(loaded.model, 0, &window);
  facts->patches = is_streamed ? (uint32_t)en_patch_count(loaded.model) : 0;
  facts->prepared_bytes = (uint32_t)prepared;
  facts->arena_bytes = (uint32_t)arena;
  facts->buffer_bytes = (uint32_t)buffers;
  memset(loaded.arena, MARK, (size_t)arena);
  if (from.used > most_used) most_used = (uint32_t)from.used;
  return MC_STATUS_OK;
}

uint32_t md_load(uint32_t index, uint32_t *detail) {
  if (index >= ST_SLOTS) return MC_STATUS_RANGE;
  st_slot slot;
  st_look(index, &slot);
  if (slot.bytes == 0) return MC_STATUS_SLOT_EMPTY;
  md_unload();
  const en_result checked = en_check(slot.image, slot.bytes);
  if (checked.status != EN_OK) {
    *detail = checked.status;
    return MC_STATUS_IMAGE;
  }
  loaded.image = slot.image;
  const uint32_t status = lay_out(detail);
  if (status == MC_STATUS_OK) loaded.slot = index;
  return status;
}

void md_unload(void) {
  memset(&loaded, 0, sizeof(loaded));
  loaded.slot = MC_NO_SLOT;
}

uint32_t md_loaded_slot(void) { return loaded.slot; }

const md_facts *md_model(void) { return loaded.slot == MC_NO_SLOT ? NULL : &loaded.facts; }

uint32_t md_operator_kind(uint32_t index) {
  const uint32_t *words = first_record();
  for (; index > 0; index--) words += words[IM_OPERATOR_WORDS];
  return words[IM_OPERATOR_KIND];
}

const char *md_kernel_name(uint32_t index) { return en_kernel_name(loaded.model, (int32_t)index); }

uint32_t md_elements(uint32_t place, uint32_t index) {
  if (place != IM_PLACE_INPUT && place != IM_PLACE_OUTPUT) return 0;
  const uint32_t *tensor = tensor_at(place, index);
  return tensor == NULL ? 0 : tensor[IM_TENSOR_ELEMENTS];
}

void md_window(uint32_t patch, en_window_of_input *window) { en_window(loaded.model, (int32_t)patch, window); }

/* Elements of an input that are to arrive before something can run: with patches, those of the next one's window. */
static uint32_t awaited(uint32_t input) {
  if (loaded.facts.patches == 0) return md_elements(IM_PLACE_INPUT, input);
  en_window_of_input w;
  md_window(loaded.next_patch, &w);
  return w.channels * (w.end_row - w.first_row) * (w.end_column - w.first_column);
}

uint32_t md_write_input(uint32_t input, uint32_t patch, uint32_t offset, const float *values, uint32_t count) {
  if (loaded.slot == MC_NO_SLOT) return MC_STATUS_NO_MODEL;
  if (input >= loaded.facts.inputs) return MC_STATUS_RANGE;
  if (patch == 0 && loaded.next_patch != 0) loaded.next_patch = 0, memset(loaded.received, 0, sizeof(loaded.received));
  if (patch != loaded.next_patch || (patch != 0 && patch >= loaded.facts.patches)) return MC_STATUS_RANGE;
  const uint32_t elements = awaited(input);
  if (offset > loaded.received[input] || offset > elements || count > elements - offset) return MC_STATUS_RANGE;
  loaded.has_outputs = 0;
  if (loaded.facts.operators_at_input == 0) memcpy(loaded.inputs[input] + offset, values, count * sizeof(float));
  const uint32_t *words = first_record();
  for (uint32_t i = 0; i < loaded.facts.operators_at_input; i++, words += words[IM_OPERATOR_WORDS]) {
    const en_record record = en_record_at(words);
    if (en_tensor(loaded.image, record.inputs[0])[IM_TENSOR_OFFSET] != input) continue;
    en_write_input(loaded.model, (int32_t)i, (int32_t)patch, offset, values, count, loaded.arena);
  }
  if (offset + count > loaded.received[input]) loaded.received[input] = offset + count;
  return MC_STATUS_OK;
}

static void use_up_inputs(void) {
  memset(loaded.received, 0, sizeof(loaded.received));
  loaded.next_patch = 0;
  loaded.has_outputs = 0;
}

void md_run_operators(uint32_t first, uint32_t count) {
  use_up_inputs();
  for (uint32_t i = first; i < first + count; i++)
    en_run_operator(loaded.model, (int32_t)i, loaded.arena, loaded.scratch, (const float *const *)loaded.inputs, loaded.outputs, NULL);
}

uint32_t md_run_patch(uint32_t patch, uint64_t *ticks) {
  *ticks = 0;
  if (loaded.slot == MC_NO_SLOT) return MC_STATUS_NO_MODEL;
  if (patch >= loaded.facts.patches) return MC_STATUS_RANGE;
  if (patch != loaded.next_patch || loaded.received[0] != awaited(0)) return MC_STATUS_NO_INPUT;
  pf_counter_start();
  en_run_patch(loaded.model, (int32_t)patch, loaded.arena, loaded.scratch, NULL);
  if (!pf_counter_stop(ticks)) *ticks = 0;
  loaded.received[0] = 0;
  loaded.next_patch++;
  return MC_STATUS_OK;
}

uint32_t md_run(uint64_t *ticks) {
  *ticks = 0;
  if (loaded.slot == MC_NO_SLOT) return MC_STATUS_NO_MODEL;
  const uint32_t patches = loaded.facts.patches;
  if (loaded.next_patch != patches) return MC_STATUS_NO_INPUT;
  for (uint32_t i = 0; i < loaded.facts.inputs && patches == 0; i++)
    if (loaded.received[i] != awaited(i)) return MC_STATUS_NO_INPUT;
  const int32_t first = patches > 0 ? en_tail(loaded.model) : (int32_t)loaded.facts.operators_at_input;
  use_up_inputs();
  pf_counter_start();
  en_run_from(loaded.model, first, loaded.arena, loaded.scratch, (const float *const *)loaded.inputs, loaded.outputs, NULL);
  /* A counter that went around says nothing, but the model has run. */
  if (!pf_counter_stop(ticks)) *ticks = 0;
  loaded.has_outputs = 1;
  return MC_STATUS_OK;
}

uint32_t md_read_output(uint32_t output, uint32_t offset, uint32_t count, const float **values) {
  if (loaded.slot == MC_NO_SLOT) return MC_STATUS_NO_MODEL;
  if (output >= loaded.facts.outputs) return MC_STATUS_RANGE;
  const uint32_t elements = md_elements(IM_PLACE_OUTPUT, output);
  if (offset > elements || count > elements - offset) return MC_STATUS_RANGE;
  if (!loaded.has_outputs) return MC_STATUS_NO_OUTPUT;
  *values = loaded.outputs[output] + offset;
  return MC_STATUS_OK;
}

uint32_t md_arena_used(void) {
  if (loaded.slot == MC_NO_SLOT) return 0;
  uint32_t used = loaded.facts.arena_bytes;
  while (used > 0 && loaded.arena[used - 1] == MARK) used--;
  return used;
}

uint32_t md_most_used(void) { return most_used; }
