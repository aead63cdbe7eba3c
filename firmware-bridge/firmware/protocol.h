/* Generated from configs/contracts/mcu.ts by scripts/mcu-header.ts; do not edit. Records as they lie on the wire, little-endian. */
#ifndef MC_PROTOCOL_H
#define MC_PROTOCOL_H

#include <stdint.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "records are used where they lie");

#define MC_VERSION 2u
#define MC_PIECE_BYTES 1024u
#define MC_FRAME_BYTES 1152u
#define MC_NO_SLOT 0xffffffffu
#define MC_PRELOADED_SLOT 2u
#define MC_MOST_RUNS 64u

enum {
  MC_STATUS_OK = 0,
  MC_STATUS_STARTED = 1,
  MC_STATUS_NO_SESSION = 2,
  MC_STATUS_UNKNOWN_COMMAND = 3,
  MC_STATUS_MALFORMED = 4,
  MC_STATUS_RANGE = 5,
  MC_STATUS_SLOT_SEALED = 6,
  MC_STATUS_SLOT_EMPTY = 7,
  MC_STATUS_SLOT_IN_USE = 8,
  MC_STATUS_READ_ONLY = 9,
  MC_STATUS_NOT_ERASED = 10,
  MC_STATUS_DIGEST = 11,
  MC_STATUS_IMAGE = 12,
  MC_STATUS_MEMORY = 13,
  MC_STATUS_NO_MODEL = 14,
  MC_STATUS_NO_INPUT = 15,
  MC_STATUS_NO_OUTPUT = 16,
  MC_STATUS_NOT_ON_TRIAL = 17,
  MC_STATUS_OVERFLOW = 18,
  MC_STATUS_STORAGE = 19
};
enum {
  MC_COUNTER_NANOSECONDS = 0,
  MC_COUNTER_CYCLES = 1,
  MC_COUNTER_INSTRUCTIONS = 2
};
enum {
  MC_START_POWER = 0,
  MC_START_REQUESTED = 1,
  MC_START_FAULT = 2,
  MC_START_WATCHDOG = 3
};

/* X(name, number, bytes of the request, whether data follows them, bytes of the reply, whether it may take long) */
#define MC_COMMANDS(X) \
  X(hello, 1, 8, 0, 8, 0) \
  X(echo, 2, 0, 1, 0, 0) \
  X(info, 3, 0, 0, 156, 0) \
  X(statistics, 4, 0, 0, 40, 0) \
  X(slot_state, 5, 4, 0, 48, 1) \
  X(slot_open, 6, 4, 0, 0, 1) \
  X(slot_write, 7, 8, 1, 0, 0) \
  X(slot_erase, 23, 8, 0, 0, 1) \
  X(slot_checksum, 8, 8, 0, 4, 1) \
  X(slot_seal, 9, 40, 0, 0, 1) \
  X(activate, 10, 4, 0, 0, 1) \
  X(confirm, 11, 0, 0, 0, 1) \
  X(revert, 12, 0, 0, 0, 1) \
  X(activation, 13, 0, 0, 20, 0) \
  X(load, 14, 4, 0, 0, 1) \
  X(model, 15, 0, 0, 40, 0) \
  X(operator, 16, 4, 0, 36, 0) \
  X(tensor, 17, 8, 0, 4, 0) \
  X(patch, 24, 4, 0, 28, 0) \
  X(input_write, 18, 12, 1, 0, 0) \
  X(patch_run, 25, 4, 0, 8, 1) \
  X(run, 19, 0, 0, 8, 1) \
  X(output_read, 20, 12, 0, 0, 0) \
  X(measure, 21, 16, 0, 16, 1) \
  X(reset, 22, 0, 0, 0, 0)

typedef struct {
  uint32_t sequence;
  uint16_t command;
  uint16_t status;
} mc_header;
_Static_assert(sizeof(mc_header) == 8, "as on the wire");
typedef struct {
  uint32_t detail;
} mc_failure;
_Static_assert(sizeof(mc_failure) == 4, "as on the wire");
typedef struct {
  uint32_t protocol;
  uint32_t session;
} mc_hello_request;
_Static_assert(sizeof(mc_hello_request) == 8, "as on the wire");
typedef struct {
  uint32_t protocol;
  uint32_t session;
} mc_hello_reply;
_Static_assert(sizeof(mc_hello_reply) == 8, "as on the wire");
typedef struct {
  char board[32];
  char core[32];
  char firmware[32];
  char counter_source[32];
  uint32_t counter;
  uint32_t clock_hz;
  uint32_t ram_bytes;
  uint32_t flash_bytes;
  uint32_t workspace_bytes;
  uint32_t slot_count;
  uint32_t sector_bytes;
} mc_info_reply;
_Static_assert(sizeof(mc_info_reply) == 156, "as on the wire");
typedef struct {
  uint32_t frames_received;
  uint32_t frames_damaged;
  uint32_t frames_repeated;
  uint32_t frames_stale;
  uint32_t bytes_lost;
  uint32_t last_start;
  uint32_t stack_bytes;
  uint32_t stack_bytes_used;
  uint32_t arena_bytes_used;
  uint32_t workspace_bytes_used;
} mc_statistics_reply;
_Static_assert(sizeof(mc_statistics_reply) == 40, "as on the wire");
typedef struct {
  uint32_t slot;
} mc_slot_state_request;
_Static_assert(sizeof(mc_slot_state_request) == 4, "as on the wire");
typedef struct {
  uint32_t capacity_bytes;
  uint32_t is_writable;
  uint32_t is_sealed;
  uint32_t image_bytes;
  uint8_t sha256[32];
} mc_slot_state_reply;
_Static_assert(sizeof(mc_slot_state_reply) == 48, "as on the wire");
typedef struct {
  uint32_t slot;
} mc_slot_open_request;
_Static_assert(sizeof(mc_slot_open_request) == 4, "as on the wire");
typedef struct {
  uint32_t slot;
  uint32_t offset;
} mc_slot_write_request;
_Static_assert(sizeof(mc_slot_write_request) == 8, "as on the wire");
typedef struct {
  uint32_t slot;
  uint32_t offset;
} mc_slot_erase_request;
_Static_assert(sizeof(mc_slot_erase_request) == 8, "as on the wire");
typedef struct {
  uint32_t slot;
  uint32_t bytes;
} mc_slot_checksum_request;
_Static_assert(sizeof(mc_slot_checksum_request) == 8, "as on the wire");
typedef struct {
  uint32_t crc32;
} mc_slot_checksum_reply;
_Static_assert(sizeof(mc_slot_checksum_reply) == 4, "as on the wire");
typedef struct {
  uint32_t slot;
  uint32_t bytes;
  uint8_t sha256[32];
} mc_slot_seal_request;
_Static_assert(sizeof(mc_slot_seal_request) == 40, "as on the wire");
typedef struct {
  uint32_t slot;
} mc_activate_request;
_Static_assert(sizeof(mc_activate_request) == 4, "as on the wire");
typedef struct {
  uint32_t active_slot;
  uint32_t previous_slot;
  uint32_t is_on_trial;
  uint32_t has_reverted;
  uint32_t loaded_slot;
} mc_activation_reply;
_Static_assert(sizeof(mc_activation_reply) == 20, "as on the wire");
typedef struct {
  uint32_t slot;
} mc_load_request;
_Static_assert(sizeof(mc_load_request) == 4, "as on the wire");
typedef struct {
  uint32_t slot;
  uint32_t operators;
  uint32_t inputs;
  uint32_t outputs;
  uint32_t operators_at_input;
  uint32_t prepared_bytes;
  uint32_t arena_bytes;
  uint32_t scratch_bytes;
  uint32_t buffer_bytes;
  uint32_t patches;
} mc_model_reply;
_Static_assert(sizeof(mc_model_reply) == 40, "as on the wire");
typedef struct {
  uint32_t index;
} mc_operator_request;
_Static_assert(sizeof(mc_operator_request) == 4, "as on the wire");
typedef struct {
  uint32_t kind;
  char kernel[32];
} mc_operator_reply;
_Static_assert(sizeof(mc_operator_reply) == 36, "as on the wire");
typedef struct {
  uint32_t place;
  uint32_t index;
} mc_tensor_request;
_Static_assert(sizeof(mc_tensor_request) == 8, "as on the wire");
typedef struct {
  uint32_t elements;
} mc_tensor_reply;
_Static_assert(sizeof(mc_tensor_reply) == 4, "as on the wire");
typedef struct {
  uint32_t patch;
} mc_patch_request;
_Static_assert(sizeof(mc_patch_request) == 4, "as on the wire");
typedef struct {
  uint32_t rows;
  uint32_t columns;
  uint32_t channels;
  uint32_t first_row;
  uint32_t end_row;
  uint32_t first_column;
  uint32_t end_column;
} mc_patch_reply;
_Static_assert(sizeof(mc_patch_reply) == 28, "as on the wire");
typedef struct {
  uint32_t input;
  uint32_t patch;
  uint32_t offset;
} mc_input_write_request;
_Static_assert(sizeof(mc_input_write_request) == 12, "as on the wire");
typedef struct {
  uint32_t patch;
} mc_patch_run_request;
_Static_assert(sizeof(mc_patch_run_request) == 4, "as on the wire");
typedef struct {
  uint64_t ticks;
} mc_patch_run_reply;
_Static_assert(sizeof(mc_patch_run_reply) == 8, "as on the wire");
typedef struct {
  uint64_t ticks;
} mc_run_reply;
_Static_assert(sizeof(mc_run_reply) == 8, "as on the wire");
typedef struct {
  uint32_t output;
  uint32_t offset;
  uint32_t count;
} mc_output_read_request;
_Static_assert(sizeof(mc_output_read_request) == 12, "as on the wire");
typedef struct {
  uint32_t first;
  uint32_t count;
  uint32_t warm_ups;
  uint32_t runs;
} mc_measure_request;
_Static_assert(sizeof(mc_measure_request) == 16, "as on the wire");
typedef struct {
  uint64_t minimum;
  uint64_t median;
} mc_measure_reply;
_Static_assert(sizeof(mc_measure_reply) == 16, "as on the wire");

#endif
