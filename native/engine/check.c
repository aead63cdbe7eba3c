/*
 * Everything that can be wrong with an image. What passes here is trusted everywhere else, so each rule says what it protects:
 * a section, a tensor or a constant lies inside its owner; sizes multiply to what the tensors hold; codes stay below 2^bits;
 * an operator never reads what it is writing.
 */
#include <string.h>

#include "../kernels/requantize.h"
#include "band.h"
#include "check.h"
#include "engine.h"

uint32_t en_crc32(const uint8_t *bytes, size_t count) {
  /* By four bits at a time: a table of 64 bytes. The polynomial is zlib's, reflected. */
  static const uint32_t table[16] = {0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
                                     0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
  uint32_t crc = 0xffffffff;
  for (size_t i = 0; i < count; i++) {
    crc ^= bytes[i];
    crc = crc >> 4 ^ table[crc & 15];
    crc = crc >> 4 ^ table[crc & 15];
  }
  return ~crc;
}

/* Product of sizes, each within 1 .. EN_MAX_SIZE; -1 when one is not or the product is beyond EN_MAX_ELEMENTS. */
static int64_t product(const int32_t *sizes, int count) {
  int64_t result = 1;
  for (int i = 0; i < count; i++) {
    if (!en_is_size(sizes[i])) return -1;
    result *= sizes[i];
    if (result > EN_MAX_ELEMENTS) return -1;
  }
  return result;
}
#define PRODUCT(...) product((const int32_t[]){__VA_ARGS__}, (int)(sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t)))

static int64_t elements_of(const uint32_t *tensor) { return tensor[IM_TENSOR_ELEMENTS]; }
static int is_codes(const uint32_t *tensor) { return tensor[IM_TENSOR_TYPE] == IM_TYPE_CODES; }
static int32_t top_of(const uint32_t *tensor) { return (1 << tensor[IM_TENSOR_BITS]) - 1; }

static uint64_t bytes_of(const uint32_t *tensor) {
  if (en_is_nibbles(tensor)) return ((uint64_t)tensor[IM_TENSOR_ELEMENTS] + 1) / 2;
  return (uint64_t)tensor[IM_TENSOR_ELEMENTS] * (tensor[IM_TENSOR_TYPE] == IM_TYPE_CODES ? 1 : 4);
}

static const uint8_t *data_of(const uint8_t *image) { return image + en_header(image)[IM_HEADER_DATA_OFFSET]; }

static const char *check_table(const uint8_t *image, uint32_t offset, int32_t top) {
  REQUIRE(en_in_data(image, offset, 256, 1), "a table lies outside the data");
  for (int i = 0; i < 256; i++) REQUIRE(data_of(image)[offset + i] <= top, "a table holds codes that the output cannot have");
  return NULL;
}

static const char *check_clamp(const uint32_t *output, int32_t zero, int32_t low, int32_t high) {
  REQUIRE(low >= 0 && low <= high && high <= top_of(output), "codes of the output can leave its range");
  REQUIRE(zero >= 0 && zero <= 255, "the output's zero point is no code");
  return NULL;
}

static const char *check_window(const kn_window *w, const uint32_t *input, const uint32_t *output) {
  REQUIRE(en_is_window(w->in_height, w->out_height, w->kernel_height, w->stride_y, w->dilation_y, w->pad_top) &&
              en_is_window(w->in_width, w->out_width, w->kernel_width, w->stride_x, w->dilation_x, w->pad_left),
          "windows do not fit the input");
  REQUIRE(w->kernel_height <= 1024 && w->kernel_width <= 1024, "the window is too large");
  if (en_has_regions(output)) return NULL;
  REQUIRE(PRODUCT(w->batch, w->in_height, w->in_width, w->channels) == elements_of(input), "the input has another size");
  REQUIRE(PRODUCT(w->batch, w->out_height, w->out_width, w->channels) == elements_of(output), "the output has another size");
  return NULL;
}

static const char *check_quantize(const kn_quantization *q, const uint32_t *input, const uint32_t *output) {
  REQUIRE(input[IM_TENSOR_TYPE] == IM_TYPE_FLOATS && is_codes(output), "the types do not fit");
  if (!en_has_regions(output))
    REQUIRE(PRODUCT(q->outer, q->channels, q->inner) == elements_of(input) && elements_of(input) == elements_of(output), "the sizes do not fit");
  return check_clamp(output, q->zero, q->low, q->high);
}

static const char *check_dequantize(const uint8_t *image, const en_record *r, const kn_dequantization *d, const uint32_t *input,
                                    const uint32_t *output) {
  REQUIRE(input[IM_TENSOR_TYPE] != IM_TYPE_FLOATS && output[IM_TENSOR_TYPE] == IM_TYPE_FLOATS, "the types do not fit");
  REQUIRE(PRODUCT(d->outer, d->channels, d->inner) == elements_of(input) && elements_of(input) == elements_of(output), "the sizes do not fit");
  REQUIRE(d->scale_count == 1 || d->scale_count == d->channels, "there is neither one scale nor one for each channel");
  REQUIRE(d->zero >= 0 && d->zero <= 255, "the zero point is no code");
  REQUIRE(en_in_data(image, r->fields[IM_DEQUANTIZE_SCALES], 4 * (uint64_t)d->scale_count, 4), "the scales lie outside the data");
  return NULL;
}

static const char *check_constants(const uint8_t *image, const en_record *r, const kn_convolution *c) {
  const uint64_t channels = (uint64_t)c->out_channels;
  const int64_t row = PRODUCT(c->kernel_height, c->kernel_width, c->in_channels / c->groups);
  /* The worst sum of a row has to leave the bias some room in 32 bits. */
  REQUIRE(row > 0 && row <= (1 << 22), "there are too many weights in a row");
  if (r->fields[IM_CONVOLUTION_LAYOUT] == 0)
    REQUIRE(en_in_data(image, r->fields[IM_CONVOLUTION_WEIGHTS], kn_weight_row_bytes((int32_t)row, c->storage_bits) * channels, 1),
            "the weights lie outside the data");
  else REQUIRE(row * (int64_t)channels <= EN_MAX_PACKED_WEIGHTS, "there are too many packed weights");
  REQUIRE(en_in_data(image, r->fields[IM_CONVOLUTION_BIAS], 4 * channels, 4), "the bias lies outside the data");
  if (c->rule == KN_ACCUMULATORS) return NULL;
  REQUIRE(en_in_data(image, r->fields[IM_CONVOLUTION_MULTIPLIERS], 4 * channels, 4), "the multipliers lie outside the data");
  REQUIRE(en_in_data(image, r->fields[IM_CONVOLUTION_SHIFTS], channels, 1), "the shifts lie outside the data");
  const int32_t most = c->rule == KN_NARROW ? INT16_MAX : INT32_MAX;
  for (uint64_t o = 0; o < channels; o++) {
    REQUIRE(c->multipliers[o] >= 0 && c->multipliers[o] <= most, "a multiplier is out of range");
    REQUIRE(c->shifts[o] <= 15, "a shift is out of range");
  }
  return NULL;
}

/* The narrow rule computes in 16 bits: every accumulator that codes and weights of this convolution can make must fit, shifted. */
static const char *check_narrow(const kn_convolution *c) {
  const int32_t row = c->kernel_height * c->kernel_width * (c->in_channels / c->groups);
  const int64_t top = (1 << c->input_bits) - 1;
  for (int32_t o = 0; o < c->out_channels; o++) {
    int64_t high = c->bias[o], low = c->bias[o];
    for (int32_t i = 0; i < row; i++) {
      const int32_t weight = kn_weight(c, o, i);
      if (weight > 0) high += weight * top;
      else low += weight * top;
    }
    const int64_t factor = (int64_t)1 << c->shifts[o];
    REQUIRE(high * factor <= INT16_MAX && low * factor >= INT16_MIN, "a sum can leave 16 bits");
  }
  return NULL;
}

/* Packed weights: a kernel that this build has, which can execute all of the problem (of each patch, of each band), and whose packed form they are. */
static const char *check_packed(const uint8_t *image, const en_stage *stage, const en_record *r) {
  const kn_convolution_kernel *kernel = en_packed_kernel(r->fields);
  REQUIRE(kernel != NULL, "its weights are packed for a kernel or in a form that this build does not have");
  const int in_parts = en_has_regions(en_tensor(image, r->output)), in_bands = en_is_banded(image, r);
  en_problem p;
  en_decode(image, r, &p);
  const int32_t variants = in_parts ? stage->patches : in_bands ? en_band_count(&p.convolution) : 1;
  for (int32_t i = 0; i < variants; i++) {
    en_decode(image, r, &p);
    if (in_parts) en_cut(image, stage, r, i, &p);
    else if (in_bands) en_cut_band(i, &p.convolution);
    REQUIRE(kernel->supports(&p.convolution), "its weights are packed for a kernel that cannot execute it");
  }
  const uint32_t offset = r->fields[IM_CONVOLUTION_WEIGHTS];
  REQUIRE(((uintptr_t)data_of(image) + offset) % 16 == 0 && en_in_data(image, offset, (uint64_t)kernel->packed_bytes(&p.convolution) + KN_SLACK, 16),
          "the packed weights lie outside the data");
  REQUIRE(kernel->accepts == NULL || kernel->accepts(&p.convolution, data_of(image) + offset), "the packed weights cannot be executed");
  return NULL;
}

/* Bands of whole rows, each of which begins on a byte and reads something of the input. */
enum { MOST_BANDS = 4096 };

static const char *check_bands(const kn_convolution *c, const uint32_t *input, const uint32_t *output) {
  REQUIRE(c->batch == 1, "nibbles are of one image");
  REQUIRE(!en_is_nibbles(input) || (int64_t)c->in_width * c->in_channels % EN_NIBBLES == 0, "a row of nibbles does not fill bytes");
  REQUIRE(!en_is_nibbles(output) || (int64_t)c->out_width * c->out_channels % EN_NIBBLES == 0, "a row of nibbles does not fill bytes");
  /* What is looked at band by band is bounded, whatever sizes an image names. */
  REQUIRE(en_band_count(c) <= MOST_BANDS, "there are too many bands of rows");
  for (int32_t band = 0; band < en_band_count(c); band++) {
    kn_convolution part = *c;
    const en_band b = en_cut_band(band, &part);
    REQUIRE(b.in.first < b.in.end, "a band of rows reads padding only");
  }
  return NULL;
}

static const char *check_convolution(const uint8_t *image, const en_record *r, const kn_convolution *c, const uint32_t *input,
                                     const uint32_t *output) {
  REQUIRE(is_codes(input) || en_is_nibbles(input), "the input holds no codes");
  REQUIRE(r->fields[IM_CONVOLUTION_RULE] <= KN_ACCUMULATORS, "there is no such rule");
  REQUIRE(c->rule == KN_ACCUMULATORS ? output[IM_TENSOR_TYPE] == IM_TYPE_ACCUMULATORS : is_codes(output) || en_is_nibbles(output),
          "the output has another type");
  REQUIRE(en_is_window(c->in_height, c->out_height, c->kernel_height, c->stride_y, c->dilation_y, c->pad_top) &&
              en_is_window(c->in_width, c->out_width, c->kernel_width, c->stride_x, c->dilation_x, c->pad_left),
          "windows do not fit the input");
  if (!en_has_regions(output)) {
    REQUIRE(PRODUCT(c->batch, c->in_height, c->in_width, c->in_channels) == elements_of(input), "the input has another size");
    REQUIRE(PRODUCT(c->batch, c->out_height, c->out_width, c->out_channels) == elements_of(output), "the output has another size");
  }
  REQUIRE(en_is_size(c->in_channels) && en_is_size(c->out_channels) && en_is_size(c->groups) && c->in_channels % c->groups == 0 && c->out_channels % c->groups == 0, "the groups do not divide the channels");
  REQUIRE(c->storage_bits == 2 || c->storage_bits == 4 || c->storage_bits == 8, "weights are stored in 2, 4 or 8 bits");
  REQUIRE(c->weight_bits >= 2 && c->weight_bits <= c->storage_bits, "weights do not fit their storage");
  REQUIRE(c->input_zero >= 0 && c->input_zero <= top_of(input), "the input's zero point is no code");
  const char *fault = check_constants(image, r, c);
  /* Kernels of packed weights keep 32 bits whatever the rule. */
  if (fault == NULL && c->rule == KN_NARROW && r->fields[IM_CONVOLUTION_LAYOUT] == 0) fault = check_narrow(c);
  if (fault == NULL && c->rule != KN_ACCUMULATORS) fault = check_clamp(output, c->output_zero, c->output_low, c->output_high);
  if (fault == NULL && (en_is_nibbles(input) || en_is_nibbles(output))) fault = check_bands(c, input, output);
  return fault;
}

/* Sizes of an operator on two inputs, the second as large as the first or repeated. */
static const char *check_pair(int32_t outer, int32_t inner, int32_t is_repeated, const uint32_t *first, const uint32_t *second,
                              const uint32_t *output) {
  REQUIRE(is_codes(first) && is_codes(second) && is_codes(output), "the types do not fit");
  if (en_has_regions(output)) return NULL;
  REQUIRE(PRODUCT(outer, inner) == elements_of(first) && elements_of(first) == elements_of(output), "the sizes do not fit");
  REQUIRE(elements_of(second) == (is_repeated ? inner : elements_of(first)), "the second input has another size");
  return NULL;
}

static const char *check_add(const kn_sum *s, const uint32_t *first, const uint32_t *second, const uint32_t *output) {
  const char *fault = check_pair(s->outer, s->inner, s->second_is_repeated, first, second, output);
  if (fault != NULL) return fault;
  REQUIRE(s->first_multiplier >= INT16_MIN && s->first_multiplier <= INT16_MAX && s->second_multiplier >= INT16_MIN &&
              s->second_multiplier <= INT16_MAX && s->shift >= 0 && s->shift <= 31,
          "a multiplier is out of range");
  return check_clamp(output, s->output_zero, s->output_low, s->output_high);
}

static const char *check_multiply(const kn_product *p, const uint32_t *first, const uint32_t *second, const uint32_t *output) {
  const char *fault = check_pair(p->outer, p->inner, p->second_is_repeated, first, second, output);
  if (fault != NULL) return fault;
  REQUIRE(p->first_zero >= 0 && p->first_zero <= 255 && p->second_zero >= 0 && p->second_zero <= 255, "a zero point is no code");
  REQUIRE(p->multiplier >= 0 && p->shift >= 0 && p->shift <= 15, "the multiplier is out of range");
  return check_clamp(output, p->output_zero, p->output_low, p->output_high);
}

static const char *check_average(const kn_mean *m, const uint32_t *input, const uint32_t *output) {
  REQUIRE(is_codes(input) && output[IM_TENSOR_TYPE] != IM_TYPE_FLOATS, "the types do not fit");
  const char *fault = check_window(&m->window, input, output);
  if (fault != NULL) return fault;
  REQUIRE(m->ratio < (UINT64_C(1) << 40), "the ratio is out of range");
  REQUIRE(m->input_zero >= 0 && m->input_zero <= 255, "the input's zero point is no code");
  if (!is_codes(output)) return NULL;
  return check_clamp(output, m->output_zero, m->output_low, m->output_high);
}

/* Whether every element that strides reach from `start` lies within 0 .. elements - 1. */
static int reaches_only(const kn_move *m, int32_t start, const int32_t *strides, int64_t elements) {
  int64_t lowest = start, highest = start;
  for (int d = 0; d < KN_COPY_RANK; d++) {
    const int64_t reach = (int64_t)(m->size[d] - 1) * strides[d];
    if (reach > 0) highest += reach;
    else lowest += reach;
  }
  return lowest >= 0 && highest < elements;
}

static const char *check_copy(const uint8_t *image, const en_record *r, const kn_move *m, const uint32_t *input, const uint32_t *output) {
  REQUIRE(input[IM_TENSOR_TYPE] == output[IM_TENSOR_TYPE] && output[IM_TENSOR_TYPE] != IM_TYPE_ACCUMULATORS, "the types do not fit");
  REQUIRE(is_codes(output) || m->table == NULL, "floats are not translated by a table");
  REQUIRE(product(m->size, KN_COPY_RANK) > 0, "a size is out of range");
  REQUIRE(reaches_only(m, m->in_start, m->in_stride, elements_of(input)), "it reads beyond its input");
  REQUIRE(reaches_only(m, m->out_start, m->out_stride, elements_of(output)), "it writes beyond its output");
  if (m->table != NULL) return check_table(image, r->fields[IM_COPY_TABLE], top_of(output));
  REQUIRE(!is_codes(output) || input[IM_TENSOR_BITS] <= output[IM_TENSOR_BITS], "codes of the input do not fit the output");
  return NULL;
}

static const char *check_samples(const uint8_t *image, uint32_t offset, int32_t count, int32_t size) {
  REQUIRE(en_in_data(image, offset, 12 * (uint64_t)count, 4), "the sampling positions lie outside the data");
  const uint32_t *words = (const uint32_t *)(const void *)(data_of(image) + offset);
  for (int64_t i = 0; i < count; i++)
    REQUIRE(words[3 * i] < (uint32_t)size && words[3 * i + 1] < (uint32_t)size && words[3 * i + 2] <= 256, "a sampling position is outside");
  return NULL;
}

static const char *check_resize(const uint8_t *image, const en_record *r, const kn_resample *s, const uint32_t *input,
                                const uint32_t *output) {
  REQUIRE(is_codes(input) && is_codes(output) && input[IM_TENSOR_BITS] <= output[IM_TENSOR_BITS], "the types do not fit");
  REQUIRE(PRODUCT(s->batch, s->in_height, s->in_width, s->channels) == elements_of(input), "the input has another size");
  REQUIRE(PRODUCT(s->batch, s->out_height, s->out_width, s->channels) == elements_of(output), "the output has another size");
  const char *fault = check_samples(image, r->fields[IM_RESIZE_ROWS], s->out_height, s->in_height);
  return fault != NULL ? fault : check_samples(image, r->fields[IM_RESIZE_COLUMNS], s->out_width, s->in_width);
}

/* How many inputs and fields each kind has; answers 0 where there is no such kind. */
static int shape_of(uint32_t kind, uint32_t *inputs, uint32_t *fields) {
  static const uint8_t shapes[][2] = {
      [IM_KIND_QUANTIZE] = {1, IM_QUANTIZE_RECORD_WORDS},
      [IM_KIND_DEQUANTIZE] = {1, IM_DEQUANTIZE_RECORD_WORDS},
      [IM_KIND_CONVOLUTION] = {1, IM_CONVOLUTION_RECORD_WORDS},
      [IM_KIND_ADD] = {2, IM_ADD_RECORD_WORDS},
      [IM_KIND_MULTIPLY] = {2, IM_MULTIPLY_RECORD_WORDS},
      [IM_KIND_TABLE] = {1, IM_TABLE_RECORD_WORDS},
      [IM_KIND_MAX_POOL] = {1, IM_MAX_POOL_RECORD_WORDS},
      [IM_KIND_AVERAGE_POOL] = {1, IM_AVERAGE_POOL_RECORD_WORDS},
      [IM_KIND_COPY] = {1, IM_COPY_RECORD_WORDS},
      [IM_KIND_FILL] = {0, IM_FILL_RECORD_WORDS},
      [IM_KIND_RESIZE] = {1, IM_RESIZE_RECORD_WORDS},
      [IM_KIND_SOFTMAX] = {1, IM_SOFTMAX_RECORD_WORDS},
      [IM_KIND_SIGMOID] = {1, IM_SIGMOID_RECORD_WORDS},
      [IM_KIND_CROP] = {1, IM_CROP_RECORD_WORDS},
      [IM_KIND_PASTE] = {1, IM_PASTE_RECORD_WORDS},
  };
  const int known = kind >= 1 && kind < sizeof(shapes) / sizeof(shapes[0]);
  *inputs = known ? shapes[kind][0] : 0;
  *fields = known ? shapes[kind][1] : 0;
  return known;
}

static const char *check_kind(const uint8_t *image, const en_record *r) {
  en_problem p;
  en_decode(image, r, &p);
  const uint32_t *output = en_tensor(image, r->output);
  const uint32_t *input = r->input_count > 0 ? en_tensor(image, r->inputs[0]) : NULL;
  if (r->kind != IM_KIND_CONVOLUTION) {
    REQUIRE(!en_is_nibbles(output), "it writes nibbles");
    for (uint32_t i = 0; i < r->input_count; i++) REQUIRE(!en_is_nibbles(en_tensor(image, r->inputs[i])), "it reads nibbles");
  }
  switch (r->kind) {
    case IM_KIND_QUANTIZE:
      return check_quantize(&p.quantize, input, output);
    case IM_KIND_DEQUANTIZE:
      return check_dequantize(image, r, &p.dequantize, input, output);
    case IM_KIND_CONVOLUTION:
      return check_convolution(image, r, &p.convolution, input, output);
    case IM_KIND_ADD:
      return check_add(&p.add, input, en_tensor(image, r->inputs[1]), output);
    case IM_KIND_MULTIPLY:
      return check_multiply(&p.multiply, input, en_tensor(image, r->inputs[1]), output);
    case IM_KIND_TABLE:
      REQUIRE(is_codes(input) && is_codes(output) && elements_of(input) == elements_of(output), "the types do not fit");
      return check_table(image, r->fields[IM_TABLE_TABLE], top_of(output));
    case IM_KIND_MAX_POOL:
      REQUIRE(is_codes(input) && is_codes(output) && input[IM_TENSOR_BITS] <= output[IM_TENSOR_BITS], "the types do not fit");
      return check_window(&p.max_pool, input, output);
    case IM_KIND_AVERAGE_POOL:
      return check_average(&p.average_pool, input, output);
    case IM_KIND_COPY:
      return check_copy(image, r, &p.copy, input, output);
    case IM_KIND_FILL:
      REQUIRE(is_codes(output) && r->fields[IM_FILL_CODE] <= (uint32_t)top_of(output), "the output cannot have this code");
      return NULL;
    case IM_KIND_RESIZE:
      return check_resize(image, r, &p.resize, input, output);
    case IM_KIND_SIGMOID:
      REQUIRE(input[IM_TENSOR_TYPE] == IM_TYPE_FLOATS && output[IM_TENSOR_TYPE] == IM_TYPE_FLOATS && elements_of(input) == elements_of(output),
              "the types do not fit");
      return NULL;
    case IM_KIND_CROP:
    case IM_KIND_PASTE:
      return NULL;
    default:
      REQUIRE(input[IM_TENSOR_TYPE] == IM_TYPE_FLOATS && output[IM_TENSOR_TYPE] == IM_TYPE_FLOATS, "the types do not fit");
      REQUIRE(PRODUCT(p.softmax.outer, p.softmax.count, p.softmax.inner) == elements_of(input) && elements_of(input) == elements_of(output),
              "the sizes do not fit");
      return NULL;
  }
}

/* What an operator writes must not be what it reads; element by element, in place, is allowed. */
static const char *check_places(const uint8_t *image, const en_record *r) {
  const uint32_t *output = en_tensor(image, r->output);
  REQUIRE(output[IM_TENSOR_PLACE] != IM_PLACE_INPUT, "it writes to an input of the model");
  const int elementwise = r->kind == IM_KIND_TABLE || r->kind == IM_KIND_ADD || r->kind == IM_KIND_MULTIPLY;
  for (uint32_t i = 0; i < r->input_count; i++) {
    const uint32_t *input = en_tensor(image, r->inputs[i]);
    REQUIRE(input[IM_TENSOR_PLACE] != IM_PLACE_OUTPUT, "it reads an output of the model");
    if (input[IM_TENSOR_PLACE] != IM_PLACE_ARENA || output[IM_TENSOR_PLACE] != IM_PLACE_ARENA) continue;
    const uint64_t from = input[IM_TENSOR_OFFSET], to = output[IM_TENSOR_OFFSET];
    const int disjoint = from + bytes_of(input) <= to || to + bytes_of(output) <= from;
    const int in_place = from == to && ((elementwise && bytes_of(input) == bytes_of(output)) || (r->kind == IM_KIND_CROP && en_has_regions(input)));
    REQUIRE(disjoint || in_place, "it overwrites what it reads");
  }
  return NULL;
}

static en_result failure(en_status status, uint32_t index, const char *what) { return (en_result){status, index, what}; }

/* A section of `bytes` bytes from `offset` lies behind the header, inside the image, on a multiple of 4. */
static int is_section(size_t total, uint64_t offset, uint64_t bytes) {
  return offset % 4 == 0 && offset >= 4 * IM_HEADER_RECORD_WORDS && offset <= total && bytes <= total - offset;
}

static en_result check_tensors(const uint8_t *image, const en_stage *stage) {
  const uint32_t *header = en_header(image);
  uint32_t count[3] = {0, 0, 0};
  for (uint32_t i = 0; i < header[IM_HEADER_TENSOR_COUNT]; i++) {
    const uint32_t *t = en_tensor(image, i);
    if (t[IM_TENSOR_TYPE] > IM_TYPE_NIBBLES || t[IM_TENSOR_PLACE] > IM_PLACE_OUTPUT) return failure(EN_TENSOR, i, "there is no such type or place");
    if (t[IM_TENSOR_ELEMENTS] < 1 || t[IM_TENSOR_ELEMENTS] > EN_MAX_ELEMENTS) return failure(EN_TENSOR, i, "its size is out of range");
    if (is_codes(t) && (t[IM_TENSOR_BITS] < 1 || t[IM_TENSOR_BITS] > 8)) return failure(EN_TENSOR, i, "codes have 1 to 8 bits");
    if (en_is_nibbles(t) && (t[IM_TENSOR_BITS] < 1 || t[IM_TENSOR_BITS] > 4)) return failure(EN_TENSOR, i, "nibbles have 1 to 4 bits");
    if (t[IM_TENSOR_PLACE] == IM_PLACE_ARENA) {
      if (t[IM_TENSOR_OFFSET] % 4 != 0 || (uint64_t)t[IM_TENSOR_OFFSET] + bytes_of(t) > header[IM_HEADER_ARENA_BYTES])
        return failure(EN_TENSOR, i, "it lies outside the arena");
    } else {
      if (t[IM_TENSOR_TYPE] != IM_TYPE_FLOATS) return failure(EN_TENSOR, i, "inputs and outputs of a model are floats");
      if (t[IM_TENSOR_OFFSET] != count[t[IM_TENSOR_PLACE]]) return failure(EN_TENSOR, i, "inputs and outputs are out of order");
    }
    count[t[IM_TENSOR_PLACE]]++;
    const char *fault = en_check_regions(image, stage, t);
    if (fault != NULL) return failure(EN_TENSOR, i, fault);
  }
  if (count[IM_PLACE_INPUT] != header[IM_HEADER_INPUT_COUNT] || count[IM_PLACE_OUTPUT] != header[IM_HEADER_OUTPUT_COUNT])
    return failure(EN_LAYOUT, 0, "inputs or outputs are missing");
  return failure(EN_OK, 0, "");
}

static en_result check_operators(const uint8_t *image, const en_stage *stage) {
  const uint32_t *header = en_header(image);
  const uint32_t *words = header + header[IM_HEADER_OPERATOR_OFFSET] / 4;
  uint32_t left = header[IM_HEADER_OPERATOR_BYTES] / 4;
  for (uint32_t i = 0; i < header[IM_HEADER_OPERATOR_COUNT]; i++) {
    if (left < IM_OPERATOR_RECORD_WORDS) return failure(EN_OPERATOR, i, "its record is cut off");
    uint32_t inputs, fields;
    if (!shape_of(words[IM_OPERATOR_KIND], &inputs, &fields)) return failure(EN_OPERATOR, i, "there is no such kind of operator");
    if (words[IM_OPERATOR_INPUT_COUNT] != inputs || words[IM_OPERATOR_WORDS] != IM_OPERATOR_RECORD_WORDS + inputs + fields ||
        words[IM_OPERATOR_WORDS] > left)
      return failure(EN_OPERATOR, i, "its record has a wrong length");
    const en_record record = en_record_at(words);
    for (uint32_t k = 0; k < inputs; k++)
      if (record.inputs[k] >= header[IM_HEADER_TENSOR_COUNT]) return failure(EN_OPERATOR, i, "it reads a tensor that is not there");
    if (record.output >= header[IM_HEADER_TENSOR_COUNT]) return failure(EN_OPERATOR, i, "it writes a tensor that is not there");
    const char *fault = check_places(image, &record);
    if (fault == NULL) fault = en_check_parts(image, stage, &record, (int32_t)i);
    if (fault == NULL) fault = check_kind(image, &record);
    if (fault == NULL && record.kind == IM_KIND_CONVOLUTION && record.fields[IM_CONVOLUTION_LAYOUT] != 0) fault = check_packed(image, stage, &record);
    if (fault != NULL) return failure(EN_OPERATOR, i, fault);
    words += record.words;
    left -= record.words;
  }
  if (left != 0) return failure(EN_LAYOUT, 0, "there is more than the operators");
  return failure(EN_OK, 0, "");
}

en_result en_check(const uint8_t *image, size_t bytes) {
  if ((uintptr_t)image % 16 != 0) return failure(EN_NOT_ALIGNED, 0, "");
  if (bytes < 4 * IM_HEADER_RECORD_WORDS) return failure(EN_TRUNCATED, 0, "");
  const uint32_t *header = en_header(image);
  if (header[IM_HEADER_MAGIC] != IM_MAGIC) return failure(EN_NOT_AN_IMAGE, 0, "");
  if (header[IM_HEADER_VERSION] != IM_VERSION) return failure(EN_VERSION, header[IM_HEADER_VERSION], "");
  if (header[IM_HEADER_TOTAL_BYTES] != bytes) return failure(EN_TRUNCATED, 0, "");
  if (header[IM_HEADER_CHECKSUM] != en_crc32(image + 4 * IM_HEADER_RECORD_WORDS, bytes - 4 * IM_HEADER_RECORD_WORDS))
    return failure(EN_CHECKSUM, 0, "");
  if (!is_section(bytes, header[IM_HEADER_TENSOR_OFFSET], 4 * (uint64_t)IM_TENSOR_RECORD_WORDS * header[IM_HEADER_TENSOR_COUNT]) ||
      !is_section(bytes, header[IM_HEADER_OPERATOR_OFFSET], header[IM_HEADER_OPERATOR_BYTES]) || header[IM_HEADER_OPERATOR_BYTES] % 4 != 0 ||
      !is_section(bytes, header[IM_HEADER_DATA_OFFSET], header[IM_HEADER_DATA_BYTES]))
    return failure(EN_LAYOUT, 0, "a section lies outside the image");
  const char *fault = en_check_stage(image, bytes);
  if (fault != NULL) return failure(EN_LAYOUT, 0, fault);
  const en_stage stage = en_stage_of(image);
  const en_result tensors = check_tensors(image, &stage);
  return tensors.status != EN_OK ? tensors : check_operators(image, &stage);
}
