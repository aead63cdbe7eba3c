/*
 * The engine: executes an image (configs/contracts/image.ts) on memory that its caller owns. Portable C: no allocation, no operating
 * system, nothing of the C library but string.h; the same files are for gateways and for microcontrollers.
 *
 *   en_check(image)  ->  en_prepare(image, memory)  ->  en_run(model, arena, scratch, inputs, outputs), as often as wanted
 *
 * An image may have a stage that runs patch by patch. en_run does that by itself. A caller that has no memory for the whole input brings it
 * window by window instead: for each patch en_write_input, with what en_window says, and en_run_patch; then en_run_from en_tail.
 *
 * An image comes from elsewhere and may be hostile: en_check looks at every word of it once, and what it lets pass cannot make the
 * engine read or write outside the image, the arena, and the caller's buffers. An image may still compute nonsense.
 */
#ifndef EN_ENGINE_H
#define EN_ENGINE_H

#include <stddef.h>
#include <stdint.h>

#include "../kernels/kernels.h"

/* What is wrong with an image. */
typedef enum {
  EN_OK = 0,
  EN_NOT_ALIGNED, /* the buffer of the image must begin on a multiple of 16 */
  EN_TRUNCATED,
  EN_NOT_AN_IMAGE,
  EN_VERSION,
  EN_CHECKSUM,
  EN_LAYOUT,   /* sections overlap, or reach beyond the end */
  EN_TENSOR,   /* `index` is the tensor */
  EN_OPERATOR, /* `index` is the operator */
  EN_MEMORY    /* the caller's memory is too small */
} en_status;

typedef struct {
  en_status status;
  uint32_t index;
  const char *what; /* in words, for a log; "" where the status says all */
} en_result;

/* What may be chosen when a model is prepared. */
typedef struct {
  uint32_t features;    /* instruction sets of this machine */
  uint32_t only_kernel; /* hash of the one kernel to use wherever it can, 0: by the image, then by the catalogue's order */
} en_options;

typedef struct en_model en_model;

/* Work that is spread over threads, and observation; all of it optional (NULL: one thread, nothing observed). */
typedef struct {
  void *context;
  int32_t threads; /* at least 1 */
  /* Calls work(argument, part, thread) once for each part below `parts`, thread below `threads`, and returns when all have. */
  void (*parallel)(void *context, int32_t parts, void (*work)(void *argument, int32_t part, int32_t thread), void *argument);
  /* Before an operator is executed, for each patch if it is in the stage, and once at the end with their number. */
  void (*before)(void *context, int32_t operator_index);
} en_host;

/* Checks all of an image; the buffer must stay as it is for as long as a model made from it is used. */
en_result en_check(const uint8_t *image, size_t bytes);

/* Bytes of `memory` that en_prepare needs for a checked image. */
size_t en_memory_bytes(const uint8_t *image, const en_options *options);

/* Chooses kernels, and packs weights where the image does not have them packed; `memory` begins on a multiple of KN_ALIGNMENT. */
en_result en_prepare(const uint8_t *image, const en_options *options, void *memory, size_t memory_bytes, en_model **model);

/* Of the arena, whose start is a multiple of KN_ALIGNMENT; slack included. */
size_t en_arena_bytes(const en_model *model);
/* Of the scratch memory of one thread; that of the next begins so many bytes later. A multiple of KN_ALIGNMENT. */
size_t en_scratch_bytes(const en_model *model);
int32_t en_operator_count(const en_model *model);
/* Name of the kernel that executes an operator, or "" for kinds that have one only. */
const char *en_kernel_name(const en_model *model, int32_t operator_index);

/* Executes the model once. Inputs and outputs are dense float arrays of as many elements as the image says. */
void en_run(const en_model *model, void *arena, void *scratch, const float *const *inputs, float *const *outputs, const en_host *host);

/*
 * The same from operator `first` on, for callers that have done the work of those before: quantized the inputs by en_write_input (`first` is
 * then behind these), or run all patches (`first` is en_tail).
 */
void en_run_from(const en_model *model, int32_t first, void *arena, void *scratch, const float *const *inputs, float *const *outputs,
                 const en_host *host);

/* Patches of the stage, counted row by row; 0: the image has no stage. */
int32_t en_patch_count(const en_model *model);
/* The first operator behind the stage; 0 without one. */
int32_t en_tail(const en_model *model);

/* What the operator that brings the windows takes of an input of the model for a patch: all channels of some rows and columns. */
typedef struct {
  uint32_t rows, columns, channels; /* of the whole */
  uint32_t first_row, end_row, first_column, end_column;
} en_window_of_input;
/* `patch` is below en_patch_count. Answers whether windows are taken of an input; otherwise the whole input lies in the arena. */
int en_window(const en_model *model, int32_t patch, en_window_of_input *window);

/*
 * Quantizes `count` values of an input, or of a patch's window of it, [channel][row][column], from element `offset` on into the arena. `index` is an
 * operator that quantizes an input; `patch` does not matter where it is outside of the stage. The piece must lie inside.
 */
void en_write_input(const en_model *model, int32_t index, int32_t patch, uint32_t offset, const float *values, uint32_t count, void *arena);

/* Executes the branch of a patch, on a window that en_write_input has brought, or on the whole input in the arena. */
void en_run_patch(const en_model *model, int32_t patch, void *arena, void *scratch, const en_host *host);

/*
 * Executes one operator, as en_run does with each in turn; one of the stage once for each patch. `index` is below en_operator_count. For
 * callers that time operators.
 */
void en_run_operator(const en_model *model, int32_t index, void *arena, void *scratch, const float *const *inputs, float *const *outputs,
                     const en_host *host);

/* zlib's CRC-32, as images carry it. */
uint32_t en_crc32(const uint8_t *bytes, size_t count);

/* FNV-1a of a kernel's name up to its first dot: how images and options name kernels. */
uint32_t en_kernel_hash(const char *name);

#endif
