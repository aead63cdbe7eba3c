#include "patch.h"

#include <string.h>

en_stage en_stage_of(const uint8_t *image) {
  const uint32_t *header = en_header(image);
  en_stage stage = {0, 0, 0, 0, 0, 0, 0, 0};
  if (header[IM_HEADER_STAGE_OFFSET] == 0) return stage;
  const uint32_t *record = header + header[IM_HEADER_STAGE_OFFSET] / 4;
  stage.rows = (int32_t)record[IM_STAGE_GRID_ROWS];
  stage.columns = (int32_t)record[IM_STAGE_GRID_COLUMNS];
  stage.patches = stage.rows * stage.columns;
  stage.first = (int32_t)record[IM_STAGE_FIRST_OPERATOR];
  stage.plain_end = stage.first + 1 + (int32_t)record[IM_STAGE_PLAIN_OPERATORS];
  stage.end = stage.plain_end + (int32_t)record[IM_STAGE_OUTLIER_OPERATORS];
  stage.low = (int32_t)record[IM_STAGE_LOW];
  stage.high = (int32_t)record[IM_STAGE_HIGH];
  return stage;
}

en_part en_part_of(const uint8_t *image, const en_stage *stage, const uint32_t *tensor, int32_t patch) {
  const uint32_t *regions = en_regions(image, tensor);
  return (en_part){en_rows(regions, patch / stage->columns), en_columns(stage, regions, patch % stage->columns),
                   (int32_t)regions[IM_REGION_CHANNELS]};
}

static void cut_window(kn_window *w, const en_part *in, const en_part *out) {
  w->pad_top = (int32_t)en_part_padding(w->pad_top, in->rows, out->rows, w->stride_y);
  w->pad_left = (int32_t)en_part_padding(w->pad_left, in->columns, out->columns, w->stride_x);
  w->in_height = en_length(in->rows);
  w->in_width = en_length(in->columns);
  w->out_height = en_length(out->rows);
  w->out_width = en_length(out->columns);
}

void en_cut(const uint8_t *image, const en_stage *stage, const en_record *record, int32_t patch, en_problem *problem) {
  if (record->kind == IM_KIND_PASTE) return;
  const en_part out = en_part_of(image, stage, en_tensor(image, record->output), patch);
  const int32_t positions = en_length(out.rows) * en_length(out.columns);
  if (record->kind == IM_KIND_QUANTIZE) {
    problem->quantize.outer = 1;
    problem->quantize.channels = out.channels;
    problem->quantize.inner = positions;
  }
  if (record->kind == IM_KIND_ADD) problem->add.outer = positions, problem->add.inner = out.channels;
  if (record->kind == IM_KIND_MULTIPLY) problem->multiply.outer = positions, problem->multiply.inner = out.channels;
  if (record->kind != IM_KIND_CONVOLUTION && record->kind != IM_KIND_MAX_POOL && record->kind != IM_KIND_AVERAGE_POOL) return;
  const en_part in = en_part_of(image, stage, en_tensor(image, record->inputs[0]), patch);
  if (record->kind == IM_KIND_MAX_POOL) cut_window(&problem->max_pool, &in, &out);
  if (record->kind == IM_KIND_AVERAGE_POOL) cut_window(&problem->average_pool.window, &in, &out);
  if (record->kind != IM_KIND_CONVOLUTION) return;
  kn_convolution *c = &problem->convolution;
  c->pad_top = (int32_t)en_part_padding(c->pad_top, in.rows, out.rows, c->stride_y);
  c->pad_left = (int32_t)en_part_padding(c->pad_left, in.columns, out.columns, c->stride_x);
  c->in_height = en_length(in.rows);
  c->in_width = en_length(in.columns);
  c->out_height = en_length(out.rows);
  c->out_width = en_length(out.columns);
}

void en_crop(const uint8_t *image, const en_stage *stage, const en_record *record, int32_t patch, const uint8_t *input, uint8_t *output) {
  const uint32_t *from = en_tensor(image, record->inputs[0]), *to = en_tensor(image, record->output), *whole = en_regions(image, to);
  const en_part out = en_part_of(image, stage, to, patch);
  en_part in = {{0, (int32_t)whole[IM_REGION_ROWS]}, {0, (int32_t)whole[IM_REGION_COLUMNS]}, out.channels};
  if (en_has_regions(from)) in = en_part_of(image, stage, from, patch);
  const size_t pitch = (size_t)en_length(in.columns) * (size_t)in.channels, row = (size_t)en_length(out.columns) * (size_t)out.channels;
  input += (size_t)(out.rows.first - in.rows.first) * pitch + (size_t)(out.columns.first - in.columns.first) * (size_t)in.channels;
  /* In place, every row moves towards the begin, in front of all that is still to be read. */
  for (int32_t y = out.rows.first; y < out.rows.end; y++, input += pitch, output += row) memmove(output, input, row);
}

void en_paste(const uint8_t *image, const en_stage *stage, const en_record *record, int32_t patch, const uint8_t *input, uint8_t *output) {
  const uint32_t *from = en_tensor(image, record->inputs[0]);
  const en_part in = en_part_of(image, stage, from, patch);
  const size_t pitch = (size_t)en_regions(image, from)[IM_REGION_COLUMNS] * (size_t)in.channels;
  const size_t row = (size_t)en_length(in.columns) * (size_t)in.channels;
  output += (size_t)in.rows.first * pitch + (size_t)in.columns.first * (size_t)in.channels;
  for (int32_t y = in.rows.first; y < in.rows.end; y++, input += row, output += pitch) memcpy(output, input, row);
}
