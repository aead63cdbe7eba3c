/*
 * The stage of an image that runs patch by patch: its record, what each patch holds of each tensor, and problems as one patch has them.
 * A branch is stored once, with the geometry of whole tensors; everything else follows from the regions of a patch.
 */
#ifndef EN_PATCH_H
#define EN_PATCH_H

#include "record.h"

/* The stage record as numbers; operators `first` to `end` - 1 run once for each patch. Without a stage, `patches` is 0 and no operator does. */
typedef struct {
  int32_t rows, columns, patches;
  int32_t first, plain_end, end; /* the operator that brings the window, then the plain branch, then that of outliers, if there is one */
  int32_t low, high;
} en_stage;

typedef struct {
  int32_t first, end;
} en_span;

/* What a patch holds of a tensor. */
typedef struct {
  en_span rows, columns;
  int32_t channels;
} en_part;

/* The stage of an image whose header and stage record have been checked. */
en_stage en_stage_of(const uint8_t *image);

static inline int en_is_in_stage(const en_stage *stage, int32_t operator_index) {
  return operator_index >= stage->first && operator_index < stage->end;
}

static inline int32_t en_length(en_span span) { return span.end - span.first; }

/* Whether a tensor is held in parts. */
static inline int en_has_regions(const uint32_t *tensor) { return tensor[IM_TENSOR_REGIONS] != IM_NO_TABLE; }

/* The words of a tensor that is held in parts. */
static inline const uint32_t *en_regions(const uint8_t *image, const uint32_t *tensor) {
  return (const uint32_t *)(const void *)(image + en_header(image)[IM_HEADER_DATA_OFFSET] + tensor[IM_TENSOR_REGIONS]);
}

/* Rows that row `index` of the grid holds; columns that column `index` of it holds. */
static inline en_span en_rows(const uint32_t *regions, int32_t index) {
  const uint32_t *span = regions + IM_REGION_RECORD_WORDS + 2 * index;
  return (en_span){(int32_t)span[0], (int32_t)span[1]};
}
static inline en_span en_columns(const en_stage *stage, const uint32_t *regions, int32_t index) { return en_rows(regions, stage->rows + index); }

/* What a patch holds of a tensor that is held in parts. */
en_part en_part_of(const uint8_t *image, const en_stage *stage, const uint32_t *tensor, int32_t patch);

/* Where the part of a window's input ends up: padding in front of what is held of the input. */
static inline int64_t en_part_padding(int64_t pad, en_span input, en_span output, int64_t stride) {
  return pad + input.first - output.first * stride;
}

/* Makes the problem of an operator that of a patch. */
void en_cut(const uint8_t *image, const en_stage *stage, const en_record *record, int32_t patch, en_problem *problem);

/* Moves the codes of a patch: out of a whole tensor or a larger part into a part, in place or not; or from a part into a whole tensor. */
void en_crop(const uint8_t *image, const en_stage *stage, const en_record *record, int32_t patch, const uint8_t *input, uint8_t *output);
void en_paste(const uint8_t *image, const en_stage *stage, const en_record *record, int32_t patch, const uint8_t *input, uint8_t *output);

#endif
