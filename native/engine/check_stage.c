/* What can be wrong with a stage that runs patch by patch. Whatever a patch is, its operators stay inside what it holds. */
#include "check.h"

/* Patches along one axis of the grid. */
#define MAX_GRID 64

const char *en_check_stage(const uint8_t *image, size_t bytes) {
  const uint32_t *header = en_header(image);
  const uint64_t offset = header[IM_HEADER_STAGE_OFFSET], count = header[IM_HEADER_OPERATOR_COUNT];
  if (offset == 0) return NULL;
  REQUIRE(offset % 4 == 0 && offset >= 4 * IM_HEADER_RECORD_WORDS && offset + 4 * IM_STAGE_RECORD_WORDS <= bytes, "the stage lies outside the image");
  const uint32_t *stage = header + offset / 4;
  REQUIRE(stage[IM_STAGE_GRID_ROWS] - 1 < MAX_GRID && stage[IM_STAGE_GRID_COLUMNS] - 1 < MAX_GRID, "the grid of patches is out of range");
  REQUIRE(stage[IM_STAGE_PLAIN_OPERATORS] > 0, "the stage has no operators");
  REQUIRE((uint64_t)stage[IM_STAGE_FIRST_OPERATOR] + 1 + stage[IM_STAGE_PLAIN_OPERATORS] + stage[IM_STAGE_OUTLIER_OPERATORS] <= count &&
              count <= INT32_MAX,
          "the stage has more operators than the image");
  REQUIRE(stage[IM_STAGE_LOW] <= 255 && stage[IM_STAGE_HIGH] <= 255, "the limits of outliers are no codes");
  return NULL;
}

static int is_inside(en_span span, uint32_t size) { return span.first >= 0 && span.first < span.end && (uint32_t)span.end <= size; }

const char *en_check_regions(const uint8_t *image, const en_stage *stage, const uint32_t *tensor) {
  if (!en_has_regions(tensor)) return NULL;
  REQUIRE(stage->patches > 0, "it is held in parts, and there are no patches");
  REQUIRE(tensor[IM_TENSOR_TYPE] == IM_TYPE_CODES && tensor[IM_TENSOR_PLACE] == IM_PLACE_ARENA, "only codes in the arena are held in parts");
  REQUIRE(en_in_data(image, tensor[IM_TENSOR_REGIONS], 4 * (uint64_t)(IM_REGION_RECORD_WORDS + 2 * (stage->rows + stage->columns)), 4),
          "its regions lie outside the data");
  const uint32_t *regions = en_regions(image, tensor);
  const uint32_t rows = regions[IM_REGION_ROWS], columns = regions[IM_REGION_COLUMNS], channels = regions[IM_REGION_CHANNELS];
  REQUIRE(en_is_size((int32_t)rows) && en_is_size((int32_t)columns) && en_is_size((int32_t)channels), "a size is out of range");
  int64_t height = 0, width = 0;
  for (int32_t i = 0; i < stage->rows; i++) {
    const en_span span = en_rows(regions, i);
    REQUIRE(is_inside(span, rows), "a region lies outside of it");
    if (en_length(span) > height) height = en_length(span);
  }
  for (int32_t i = 0; i < stage->columns; i++) {
    const en_span span = en_columns(stage, regions, i);
    REQUIRE(is_inside(span, columns), "a region lies outside of it");
    if (en_length(span) > width) width = en_length(span);
  }
  REQUIRE(height * width <= EN_MAX_ELEMENTS && height * width * (int64_t)channels <= tensor[IM_TENSOR_ELEMENTS], "a part is larger than its memory");
  return NULL;
}

static int is_same_size(const uint32_t *a, const uint32_t *b) {
  return a[IM_REGION_ROWS] == b[IM_REGION_ROWS] && a[IM_REGION_COLUMNS] == b[IM_REGION_COLUMNS] &&
         a[IM_REGION_CHANNELS] == b[IM_REGION_CHANNELS];
}

/* Whether a patch holds the same of both. */
static int is_same_part(const en_stage *stage, const uint32_t *a, const uint32_t *b) {
  for (int32_t i = 0; i < stage->rows + stage->columns; i++) {
    const en_span one = en_rows(a, i), other = en_rows(b, i);
    if (one.first != other.first || one.end != other.end) return 0;
  }
  return 1;
}

static int is_whole_of(const uint32_t *tensor, const uint32_t *regions) {
  const int64_t positions = (int64_t)regions[IM_REGION_ROWS] * regions[IM_REGION_COLUMNS];
  return positions <= EN_MAX_ELEMENTS && positions * (int64_t)regions[IM_REGION_CHANNELS] == (int64_t)tensor[IM_TENSOR_ELEMENTS];
}

static const char *check_crop(const uint8_t *image, const en_stage *stage, const uint32_t *input, const uint32_t *output) {
  REQUIRE(input[IM_TENSOR_TYPE] == IM_TYPE_CODES && input[IM_TENSOR_BITS] <= output[IM_TENSOR_BITS], "the types do not fit");
  const uint32_t *out = en_regions(image, output);
  if (!en_has_regions(input)) {
    REQUIRE(is_whole_of(input, out), "the input has another size");
    return NULL;
  }
  const uint32_t *in = en_regions(image, input);
  REQUIRE(in[IM_REGION_COLUMNS] == out[IM_REGION_COLUMNS] && in[IM_REGION_CHANNELS] == out[IM_REGION_CHANNELS], "the input has another size");
  for (int32_t i = 0; i < stage->rows + stage->columns; i++) {
    const en_span held = en_rows(in, i), wanted = en_rows(out, i);
    REQUIRE(held.first <= wanted.first && wanted.end <= held.end, "it reads more than a patch holds");
  }
  return NULL;
}

/* Windows of one axis, for every row (or column) of patches; `base` is the first of them among the spans. */
typedef struct {
  int32_t kernel, stride, dilation, pad, base, count;
} axis;

static const char *check_axis(const axis *a, const uint32_t *in, const uint32_t *out) {
  for (int32_t i = a->base; i < a->base + a->count; i++) {
    const en_span input = en_rows(in, i), output = en_rows(out, i);
    const int64_t pad = en_part_padding(a->pad, input, output, a->stride);
    REQUIRE(en_is_window(en_length(input), en_length(output), a->kernel, a->stride, a->dilation, pad), "windows of a patch do not fit what it holds");
  }
  return NULL;
}

static const char *check_windows(const en_stage *stage, const kn_window *w, const uint32_t *in, const uint32_t *out, int32_t out_channels) {
  REQUIRE(w->batch == 1 && w->in_height == (int32_t)in[IM_REGION_ROWS] && w->in_width == (int32_t)in[IM_REGION_COLUMNS] &&
              w->channels == (int32_t)in[IM_REGION_CHANNELS] && w->out_height == (int32_t)out[IM_REGION_ROWS] &&
              w->out_width == (int32_t)out[IM_REGION_COLUMNS] && out_channels == (int32_t)out[IM_REGION_CHANNELS],
          "patches are of tensors of another size");
  const axis down = {w->kernel_height, w->stride_y, w->dilation_y, w->pad_top, 0, stage->rows};
  const axis across = {w->kernel_width, w->stride_x, w->dilation_x, w->pad_left, stage->rows, stage->columns};
  const char *fault = check_axis(&down, in, out);
  return fault != NULL ? fault : check_axis(&across, in, out);
}

static const char *check_sliding(const uint8_t *image, const en_stage *stage, const en_record *r) {
  const uint32_t *in = en_regions(image, en_tensor(image, r->inputs[0])), *out = en_regions(image, en_tensor(image, r->output));
  en_problem p;
  en_decode(image, r, &p);
  if (r->kind != IM_KIND_CONVOLUTION)
    return check_windows(stage, r->kind == IM_KIND_MAX_POOL ? &p.max_pool : &p.average_pool.window, in, out, (int32_t)in[IM_REGION_CHANNELS]);
  const kn_convolution *c = &p.convolution;
  const kn_window w = {.batch = c->batch, .in_height = c->in_height, .in_width = c->in_width, .channels = c->in_channels,
                       .out_height = c->out_height, .out_width = c->out_width, .kernel_height = c->kernel_height,
                       .kernel_width = c->kernel_width, .stride_y = c->stride_y, .stride_x = c->stride_x, .dilation_y = c->dilation_y,
                       .dilation_x = c->dilation_x, .pad_top = c->pad_top, .pad_left = c->pad_left};
  return check_windows(stage, &w, in, out, c->out_channels);
}

/* Element by element: everything is there in the same parts. */
static const char *check_elements(const uint8_t *image, const en_stage *stage, const en_record *r) {
  const uint32_t *out = en_regions(image, en_tensor(image, r->output));
  for (uint32_t i = 0; i < r->input_count; i++) {
    const uint32_t *in = en_regions(image, en_tensor(image, r->inputs[i]));
    REQUIRE(is_same_size(in, out) && is_same_part(stage, in, out), "patches hold other parts of its tensors");
  }
  if (r->kind == IM_KIND_TABLE) return NULL;
  en_problem p;
  en_decode(image, r, &p);
  REQUIRE(r->kind == IM_KIND_ADD ? !p.add.second_is_repeated : !p.multiply.second_is_repeated, "nothing is repeated in a stage");
  return NULL;
}

const char *en_check_parts(const uint8_t *image, const en_stage *stage, const en_record *r, int32_t index) {
  const uint32_t *output = en_tensor(image, r->output), *input = r->input_count > 0 ? en_tensor(image, r->inputs[0]) : output;
  const int in_stage = en_is_in_stage(stage, index), brings = in_stage && index == stage->first;
  REQUIRE(in_stage || (r->kind != IM_KIND_CROP && r->kind != IM_KIND_PASTE), "it is for stages only");
  for (uint32_t i = 0; i < r->input_count; i++) {
    const int whole_is_right = !in_stage || (brings && r->kind == IM_KIND_QUANTIZE);
    const int is_free = in_stage && r->kind == IM_KIND_CROP;
    REQUIRE(is_free || en_has_regions(en_tensor(image, r->inputs[i])) != whole_is_right, "it reads in parts what is whole, or the other way round");
  }
  REQUIRE(en_has_regions(output) == (in_stage && r->kind != IM_KIND_PASTE), "it writes in parts what is whole, or the other way round");
  if (!in_stage) return NULL;
  REQUIRE(brings ? r->kind == IM_KIND_QUANTIZE || r->kind == IM_KIND_CROP : r->kind != IM_KIND_QUANTIZE, "a window is brought by a quantization or a crop");
  switch (r->kind) {
    case IM_KIND_QUANTIZE:
      REQUIRE(is_whole_of(input, en_regions(image, output)) && input[IM_TENSOR_PLACE] == IM_PLACE_INPUT, "it is no window of an input of the model");
      return NULL;
    case IM_KIND_CROP:
      return check_crop(image, stage, input, output);
    case IM_KIND_PASTE:
      REQUIRE(output[IM_TENSOR_TYPE] == IM_TYPE_CODES && output[IM_TENSOR_PLACE] == IM_PLACE_ARENA &&
                  input[IM_TENSOR_BITS] <= output[IM_TENSOR_BITS] && is_whole_of(output, en_regions(image, input)),
              "the output has another size or type");
      return NULL;
    case IM_KIND_CONVOLUTION:
    case IM_KIND_MAX_POOL:
    case IM_KIND_AVERAGE_POOL:
      return check_sliding(image, stage, r);
    case IM_KIND_ADD:
    case IM_KIND_MULTIPLY:
    case IM_KIND_TABLE:
      return check_elements(image, stage, r);
    default:
      return "operators of this kind do not run patch by patch";
  }
}
