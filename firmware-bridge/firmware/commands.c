#include "commands.h"

#include <string.h>

#include "../../native/engine/engine.h"
#include "../../native/engine/image.h"
#include "board.h"
#include "measure.h"
#include "model.h"
#include "platform.h"
#include "store.h"
#include "wire.h"

/* Record of the request, and of the reply, of the command that `call` is for. */
#define REQUEST(name) const mc_##name##_request *request = (const void *)call->request
#define REPLY(name) mc_##name##_reply *reply = (void *)call->reply
#define DATA(name) (call->request + sizeof(mc_##name##_request))
#define DATA_BYTES(name) (call->request_bytes - (uint32_t)sizeof(mc_##name##_request))

static void put_text(char *to, const char *text) {
  memset(to, 0, 32);
  for (size_t i = 0; i < 32 && text[i] != '\0'; i++) to[i] = text[i];
}

static uint32_t run_hello(cm_call *call) {
  const uint32_t session = ((const mc_hello_request *)(const void *)call->request)->session;
  REPLY(hello);
  reply->protocol = MC_VERSION;
  reply->session = session;
  return MC_STATUS_OK;
}

static uint32_t run_echo(cm_call *call) {
  memcpy(call->reply, call->request, call->request_bytes);
  call->reply_data_bytes = call->request_bytes;
  return MC_STATUS_OK;
}

static uint32_t run_info(cm_call *call) {
  REPLY(info);
  put_text(reply->board, BD_NAME);
  put_text(reply->core, BD_CORE);
  put_text(reply->firmware, BD_FIRMWARE);
  put_text(reply->counter_source, pf_counter_source());
  reply->counter = pf_counter();
  reply->clock_hz = BD_CLOCK_HZ;
  reply->ram_bytes = BD_RAM_BYTES;
  reply->flash_bytes = BD_FLASH_BYTES;
  pf_workspace(&reply->workspace_bytes);
  reply->slot_count = ST_SLOTS;
  reply->sector_bytes = BD_SECTOR_BYTES;
  return MC_STATUS_OK;
}

static uint32_t run_statistics(cm_call *call) {
  REPLY(statistics);
  const wi_counts *wire = wi_statistics();
  reply->frames_received = wire->received;
  reply->frames_damaged = wire->damaged;
  reply->frames_repeated = wire->repeated;
  reply->frames_stale = wire->stale;
  reply->bytes_lost = pf_bytes_lost();
  reply->last_start = pf_last_start();
  reply->stack_bytes = pf_stack_bytes();
  reply->stack_bytes_used = pf_stack_used();
  reply->arena_bytes_used = md_arena_used();
  reply->workspace_bytes_used = md_most_used();
  return MC_STATUS_OK;
}

static uint32_t run_slot_state(cm_call *call) {
  REQUEST(slot_state);
  if (request->slot >= ST_SLOTS) return MC_STATUS_RANGE;
  st_slot slot;
  st_look(request->slot, &slot);
  REPLY(slot_state);
  reply->capacity_bytes = slot.capacity;
  reply->is_writable = slot.is_writable;
  reply->is_sealed = slot.bytes != 0;
  reply->image_bytes = slot.bytes;
  st_hash(&slot, reply->sha256);
  return MC_STATUS_OK;
}

/* Loads the active slot, if there is one that can be. */
static uint32_t serve(uint32_t *detail) {
  const uint32_t active = st_journal()->active;
  if (active != MC_NO_SLOT) return md_load(active, detail);
  md_unload();
  return MC_STATUS_OK;
}

static uint32_t run_slot_open(cm_call *call) {
  REQUEST(slot_open);
  const uint32_t slot = request->slot;
  const uint32_t status = st_open(slot);
  uint32_t ignored;
  if (status == MC_STATUS_OK && md_loaded_slot() == slot) serve(&ignored);
  return status;
}

static uint32_t run_slot_erase(cm_call *call) {
  REQUEST(slot_erase);
  return st_erase(request->slot, request->offset);
}

static uint32_t run_slot_write(cm_call *call) {
  REQUEST(slot_write);
  return st_write(request->slot, request->offset, DATA(slot_write), DATA_BYTES(slot_write), &call->detail);
}

static uint32_t run_slot_checksum(cm_call *call) {
  REQUEST(slot_checksum);
  if (request->slot >= ST_SLOTS) return MC_STATUS_RANGE;
  st_slot slot;
  st_look(request->slot, &slot);
  if (request->bytes > slot.capacity) return MC_STATUS_RANGE;
  REPLY(slot_checksum);
  const uint32_t checksum = en_crc32(slot.image, request->bytes);
  reply->crc32 = checksum;
  return MC_STATUS_OK;
}

static uint32_t run_slot_seal(cm_call *call) {
  REQUEST(slot_seal);
  return st_seal(request->slot, request->bytes, request->sha256, &call->detail);
}

static uint32_t run_activate(cm_call *call) {
  REQUEST(activate);
  const uint32_t slot = request->slot;
  /* What cannot run must not become active. */
  const uint32_t loaded = md_load(slot, &call->detail);
  const uint32_t status = loaded != MC_STATUS_OK ? loaded : st_activate(slot);
  uint32_t ignored;
  if (status != MC_STATUS_OK) serve(&ignored);
  return status;
}

static uint32_t run_confirm(cm_call *call) {
  (void)call;
  return st_confirm();
}

static uint32_t run_revert(cm_call *call) {
  const uint32_t status = st_revert();
  return status == MC_STATUS_OK ? serve(&call->detail) : status;
}

static uint32_t run_activation(cm_call *call) {
  REPLY(activation);
  const st_record *journal = st_journal();
  reply->active_slot = journal->active;
  reply->previous_slot = journal->previous;
  reply->is_on_trial = journal->is_on_trial;
  reply->has_reverted = (uint32_t)st_has_reverted();
  reply->loaded_slot = md_loaded_slot();
  return MC_STATUS_OK;
}

static uint32_t run_load(cm_call *call) {
  REQUEST(load);
  return md_load(request->slot, &call->detail);
}

static uint32_t run_model(cm_call *call) {
  const md_facts *facts = md_model();
  if (facts == NULL) return MC_STATUS_NO_MODEL;
  REPLY(model);
  reply->slot = md_loaded_slot();
  reply->operators = facts->operators;
  reply->inputs = facts->inputs;
  reply->outputs = facts->outputs;
  reply->operators_at_input = facts->operators_at_input;
  reply->prepared_bytes = facts->prepared_bytes;
  reply->arena_bytes = facts->arena_bytes;
  reply->scratch_bytes = facts->scratch_bytes;
  reply->buffer_bytes = facts->buffer_bytes;
  reply->patches = facts->patches;
  return MC_STATUS_OK;
}

static uint32_t run_operator(cm_call *call) {
  REQUEST(operator);
  const md_facts *facts = md_model();
  if (facts == NULL) return MC_STATUS_NO_MODEL;
  const uint32_t index = request->index;
  if (index >= facts->operators) return MC_STATUS_RANGE;
  REPLY(operator);
  reply->kind = md_operator_kind(index);
  put_text(reply->kernel, md_kernel_name(index));
  return MC_STATUS_OK;
}

static uint32_t run_tensor(cm_call *call) {
  REQUEST(tensor);
  if (md_model() == NULL) return MC_STATUS_NO_MODEL;
  const uint32_t elements = md_elements(request->place, request->index);
  REPLY(tensor);
  reply->elements = elements;
  return elements == 0 ? MC_STATUS_RANGE : MC_STATUS_OK;
}

static uint32_t run_input_write(cm_call *call) {
  REQUEST(input_write);
  if (DATA_BYTES(input_write) % sizeof(float) != 0) return MC_STATUS_MALFORMED;
  return md_write_input(request->input, request->patch, request->offset, (const float *)(const void *)DATA(input_write),
                        DATA_BYTES(input_write) / sizeof(float));
}

static uint32_t run_patch(cm_call *call) {
  REQUEST(patch);
  const md_facts *facts = md_model();
  if (facts == NULL) return MC_STATUS_NO_MODEL;
  const uint32_t patch = request->patch;
  if (patch >= facts->patches) return MC_STATUS_RANGE;
  en_window_of_input window;
  md_window(patch, &window);
  REPLY(patch);
  reply->rows = window.rows;
  reply->columns = window.columns;
  reply->channels = window.channels;
  reply->first_row = window.first_row;
  reply->end_row = window.end_row;
  reply->first_column = window.first_column;
  reply->end_column = window.end_column;
  return MC_STATUS_OK;
}

static uint32_t run_patch_run(cm_call *call) {
  REQUEST(patch_run);
  uint64_t ticks;
  const uint32_t status = md_run_patch(request->patch, &ticks);
  REPLY(patch_run);
  reply->ticks = ticks;
  return status;
}

static uint32_t run_run(cm_call *call) {
  REPLY(run);
  uint64_t ticks;
  const uint32_t status = md_run(&ticks);
  reply->ticks = ticks;
  return status;
}

static uint32_t run_output_read(cm_call *call) {
  REQUEST(output_read);
  const uint32_t output = request->output, offset = request->offset, count = request->count;
  if (count > MC_PIECE_BYTES / sizeof(float)) return MC_STATUS_RANGE;
  const float *from;
  const uint32_t status = md_read_output(output, offset, count, &from);
  if (status != MC_STATUS_OK) return status;
  memcpy(call->reply, from, count * sizeof(float));
  call->reply_data_bytes = count * sizeof(float);
  return MC_STATUS_OK;
}

static uint32_t run_measure(cm_call *call) {
  REQUEST(measure);
  ms_times times;
  const uint32_t status = ms_measure(request->first, request->count, request->warm_ups, request->runs, &times);
  REPLY(measure);
  reply->minimum = times.minimum;
  reply->median = times.median;
  return status;
}

static uint32_t run_reset(cm_call *call) {
  call->resets = 1;
  return MC_STATUS_OK;
}

#define CM_ROW(name, number, request_bytes, takes_data, reply_bytes, takes_long) \
  {number, request_bytes, reply_bytes, takes_data, takes_long, run_##name},
static const cm_command table[] = {MC_COMMANDS(CM_ROW)};
#undef CM_ROW

const cm_command *cm_find(uint32_t number) {
  for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
    if (table[i].number == number) return &table[i];
  return NULL;
}

int cm_fits(const cm_command *command, uint32_t request_bytes) {
  if (!command->takes_data) return request_bytes == command->request_bytes;
  return request_bytes >= command->request_bytes && request_bytes - command->request_bytes <= MC_PIECE_BYTES;
}

uint32_t cm_execute(const cm_command *command, cm_call *call) { return command->run(call); }
