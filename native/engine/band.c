#include "band.h"

#include <string.h>

int en_is_banded(const uint8_t *image, const en_record *record) {
  return record->kind == IM_KIND_CONVOLUTION &&
         (en_is_nibbles(en_tensor(image, record->inputs[0])) || en_is_nibbles(en_tensor(image, record->output)));
}

en_band en_cut_band(int32_t band, kn_convolution *c) {
  en_band b = {{0, 0}, {band * IM_BAND_ROWS, (band + 1) * IM_BAND_ROWS}};
  if (b.out.end > c->out_height) b.out.end = c->out_height;
  const int32_t first = b.out.first * c->stride_y - c->pad_top;
  const int32_t end = (b.out.end - 1) * c->stride_y - c->pad_top + (c->kernel_height - 1) * c->dilation_y + 1;
  b.in.first = first < 0 ? 0 : first;
  b.in.end = end > c->in_height ? c->in_height : end;
  c->pad_top = b.in.first - first;
  c->in_height = en_length(b.in);
  c->out_height = en_length(b.out);
  return b;
}

static size_t row_in(const kn_convolution *c) { return (size_t)c->in_width * (size_t)c->in_channels; }
static size_t row_out(const kn_convolution *c) { return (size_t)c->out_width * (size_t)c->out_channels; }

static size_t room(size_t codes) { return (codes + KN_SLACK + KN_ALIGNMENT - 1) / KN_ALIGNMENT * KN_ALIGNMENT; }

/* Of the largest band. */
static size_t input_room(const uint8_t *image, const en_record *record, const kn_convolution *c) {
  if (!en_is_nibbles(en_tensor(image, record->inputs[0]))) return 0;
  const int64_t rows = (int64_t)(IM_BAND_ROWS - 1) * c->stride_y + (int64_t)(c->kernel_height - 1) * c->dilation_y + 1;
  return room((size_t)(rows > c->in_height ? c->in_height : rows) * row_in(c));
}

static size_t output_room(const uint8_t *image, const en_record *record, const kn_convolution *c) {
  const int32_t rows = c->out_height < IM_BAND_ROWS ? c->out_height : IM_BAND_ROWS;
  return en_is_nibbles(en_tensor(image, record->output)) ? room((size_t)rows * row_out(c)) : 0;
}

size_t en_band_bytes(const uint8_t *image, const en_record *record, const kn_convolution *c) {
  return input_room(image, record, c) + output_room(image, record, c);
}

static void spread(const uint8_t *nibbles, size_t count, uint8_t *codes) {
  for (size_t i = 0; i < count; i += EN_NIBBLES, nibbles += EN_NIBBLES / 2, codes += EN_NIBBLES) {
    uint32_t both;
    memcpy(&both, nibbles, sizeof both);
    const uint32_t first = both & 0x0F0F0F0F, second = both >> 4 & 0x0F0F0F0F;
    memcpy(codes, &first, sizeof first);
    memcpy(codes + sizeof first, &second, sizeof second);
  }
}

static void join(const uint8_t *codes, size_t count, uint8_t *nibbles) {
  for (size_t i = 0; i < count; i += EN_NIBBLES, nibbles += EN_NIBBLES / 2, codes += EN_NIBBLES) {
    uint32_t first, second;
    memcpy(&first, codes, sizeof first);
    memcpy(&second, codes + sizeof first, sizeof second);
    const uint32_t both = first | second << 4;
    memcpy(nibbles, &both, sizeof both);
  }
}

void en_run_band(const uint8_t *image, const en_record *record, const kn_convolution *whole, const kn_convolution_kernel *kernel,
                 const void *packed, const void *input, void *output, uint8_t *scratch, int32_t band) {
  kn_convolution c = *whole;
  const en_band b = en_cut_band(band, &c);
  const size_t in_room = input_room(image, record, whole), out_room = output_room(image, record, whole);
  const size_t before = (size_t)b.in.first * row_in(whole), after = (size_t)b.out.first * row_out(whole);
  const size_t element = c.rule == KN_ACCUMULATORS ? sizeof(int32_t) : 1;
  const uint8_t *from = (const uint8_t *)input + (in_room > 0 ? before / 2 : before);
  uint8_t *to = (uint8_t *)output + (out_room > 0 ? after / 2 : after * element), *codes = out_room > 0 ? scratch + in_room : to;
  if (in_room > 0) {
    spread(from, (size_t)c.in_height * row_in(&c), scratch);
    from = scratch;
  }
  for (int32_t tile = 0; tile < kernel->tiles(&c); tile++) kernel->run(&c, packed, from, codes, scratch + in_room + out_room, tile);
  if (out_room > 0) join(codes, (size_t)c.out_height * row_out(&c), to);
}
