/*
 * A convolution as products of matrices: the pixels under the kernel laid out one behind the other (im2col), a block of output pixels
 * at a time so that it stays in the cache. A 1x1 convolution of stride 1 needs no such copy.
 *
 * The file of the instruction set defines before: KN_INLINE; KN_MAX_ROWS, pixels of the largest tile of a product; and in registers
 * kn_take(to, from, count, wide), which copies codes, and kn_fill(to, code, count, wide), which repeats one; both may write up to
 * KN_SLACK / 2 bytes more, and answer the end of what was asked for; kn_take_once(to, from, wide), which copies as many codes as KN_ONCE,
 * or KN_ONCE_WIDE, in one go.
 */
#ifndef KN_SHARED_PATCHES_H
#define KN_SHARED_PATCHES_H

#include "base.h"

typedef struct {
  int32_t group_in, group_out; /* channels of a group */
  int32_t row, steps;          /* weights of one output channel, and steps of the inner loop over them */
  int32_t panels;              /* of one group */
  int32_t pixels, block, blocks;
  int32_t channel_blocks, block_panels;
  int32_t in_place;
  size_t stride;    /* bytes from one pixel's codes to the next's */
  int32_t out_step; /* elements from one pixel of the output to the next */
} kn_product_plan;

enum { KN_BLOCK_BYTES = 160000 };

/* `step` codes make a step, of `code_bytes` bytes each; panels are `width` channels wide. */
static inline kn_product_plan kn_plan_product(const kn_convolution *c, int32_t step, int32_t code_bytes, int32_t width) {
  kn_product_plan p;
  p.group_in = c->in_channels / c->groups;
  p.group_out = c->out_channels / c->groups;
  p.row = c->kernel_height * c->kernel_width * p.group_in;
  p.steps = kn_up(p.row, step);
  p.panels = kn_up(p.group_out, width);
  p.out_step = c->out_channels;
  p.pixels = c->batch * c->out_height * c->out_width;
  p.in_place = code_bytes == 1 && c->kernel_height == 1 && c->kernel_width == 1 && c->stride_y == 1 && c->stride_x == 1 &&
               c->pad_top == 0 && c->pad_left == 0 && c->in_height == c->out_height && c->in_width == c->out_width;
  p.stride = p.in_place ? (size_t)c->in_channels : (size_t)p.steps * step * code_bytes;
  const int32_t fitting = kn_max(1, (int32_t)(KN_BLOCK_BYTES / ((size_t)p.steps * step * code_bytes)) / KN_MAX_ROWS) * KN_MAX_ROWS;
  p.blocks = kn_up(p.pixels, fitting);
  /*
   * Work that is worth sharing is cut into at least four tiles. Smaller blocks read all weights more often, so that where pixels are few
   * the channels are cut instead.
   */
  const int32_t wanted = (int64_t)p.pixels * p.row * p.group_out > 2000000 ? kn_up(4, c->groups) : 1;
  if (p.blocks < wanted && p.pixels / wanted >= 16 * KN_MAX_ROWS) p.blocks = wanted;
  p.block = kn_up(kn_up(p.pixels, p.blocks), KN_MAX_ROWS) * KN_MAX_ROWS;
  p.blocks = kn_up(p.pixels, p.block);
  p.block_panels = kn_max(1, p.panels / kn_up(wanted, p.blocks));
  p.channel_blocks = kn_up(p.panels, p.block_panels);
  return p;
}

static inline int32_t kn_plan_tiles(const kn_convolution *c, const kn_product_plan *p) {
  return c->groups * p->channel_blocks * p->blocks;
}

static inline size_t kn_plan_scratch(const kn_product_plan *p) {
  return p->in_place ? 0 : kn_aligned((size_t)kn_min(p->block, p->pixels) * p->stride + KN_SLACK);
}

/* What a tile computes. */
typedef struct {
  int32_t group, pixel, pixel_count, panel, panel_end;
} kn_product_tile;

static inline kn_product_tile kn_plan_tile(const kn_product_plan *p, int32_t tile) {
  kn_product_tile t;
  const int32_t block = tile % p->blocks, rest = tile / p->blocks;
  t.panel = rest % p->channel_blocks * p->block_panels;
  t.panel_end = kn_min(p->panels, t.panel + p->block_panels);
  t.group = rest / p->channel_blocks;
  t.pixel = block * p->block;
  t.pixel_count = kn_min(p->block, p->pixels - t.pixel);
  return t;
}

/* Positions of the kernel along one axis that lie inside the input: from `first` to before `end`. */
KN_INLINE void kn_inside(int32_t start, int32_t kernel, int32_t dilation, int32_t size, int32_t *first, int32_t *end) {
  *first = start >= 0 ? 0 : kn_min(kernel, kn_up(-start, dilation));
  *end = start >= size ? *first : kn_max(*first, kn_min(kernel, (size - 1 - start) / dilation + 1));
}

/* The codes under the kernel for one output pixel, some of them outside the input; `image` is the group's first channel. */
KN_INLINE void kn_gather_border(const kn_convolution *c, int32_t group_in, const uint8_t *image, int32_t x, int32_t y, uint8_t *to,
                                int wide) {
  const size_t pixel_bytes = (size_t)c->in_channels, line = pixel_bytes * c->in_width;
  int32_t first, end;
  kn_inside(x, c->kernel_width, c->dilation_x, c->in_width, &first, &end);
  for (int32_t ky = 0; ky < c->kernel_height; ky++) {
    const int32_t at = y + ky * c->dilation_y;
    if (at < 0 || at >= c->in_height || first >= end) {
      to = kn_fill(to, c->input_zero, c->kernel_width * group_in, wide);
      continue;
    }
    const uint8_t *from = image + (size_t)at * line + (size_t)(x + first * c->dilation_x) * pixel_bytes;
    if (first > 0) to = kn_fill(to, c->input_zero, first * group_in, wide);
    if (c->dilation_x == 1 && c->groups == 1) {
      to = kn_take(to, from, (end - first) * group_in, wide);
    } else {
      for (int32_t kx = first; kx < end; kx++, from += c->dilation_x * pixel_bytes) to = kn_take(to, from, group_in, wide);
    }
    if (end < c->kernel_width) to = kn_fill(to, c->input_zero, (c->kernel_width - end) * group_in, wide);
  }
}

/* The same where all of the kernel lies inside and each of its rows in one piece of `row` codes. */
KN_INLINE void kn_gather_inside(const uint8_t *from, size_t step, int32_t rows, int32_t row, uint8_t *to, int wide) {
  if (row <= (wide ? KN_ONCE_WIDE : KN_ONCE)) {
    for (int32_t ky = 0; ky < rows; ky++, from += step, to += wide ? 2 * row : row) kn_take_once(to, from, wide);
  } else {
    for (int32_t ky = 0; ky < rows; ky++, from += step) to = kn_take(to, from, row, wide);
  }
}

/* The codes of `count` output pixels from `pixel` on, each pixel's p->stride bytes behind the last one's; 16 bits each if `wide`. */
KN_INLINE void kn_gather(const kn_convolution *c, const kn_product_plan *p, const uint8_t *input, int32_t group, int32_t pixel,
                         int32_t count, uint8_t *out, int wide) {
  const size_t line = (size_t)c->in_channels * c->in_width, step = line * c->dilation_y;
  const int32_t in_pieces = c->dilation_x > 1 || c->groups > 1, row = c->kernel_width * p->group_in;
  /* Where the kernel's first row and column may be for all of it to lie inside. */
  const int32_t last_x = c->in_width - c->kernel_width, last_y = c->in_height - (c->kernel_height - 1) * c->dilation_y - 1;
  int32_t x = pixel % c->out_width, y = pixel / c->out_width % c->out_height;
  const uint8_t *image = input + (size_t)(pixel / c->out_width / c->out_height) * c->in_height * line + (size_t)group * p->group_in;
  for (int32_t i = 0; i < count; i++, out += p->stride) {
    const int32_t ix = x * c->stride_x - c->pad_left, iy = y * c->stride_y - c->pad_top;
    if (in_pieces || ix < 0 || ix > last_x || iy < 0 || iy > last_y) {
      kn_gather_border(c, p->group_in, image, ix, iy, out, wide);
    } else {
      kn_gather_inside(image + (size_t)iy * line + (size_t)ix * c->in_channels, step, c->kernel_height, row, out, wide);
    }
    if (++x == c->out_width) {
      x = 0;
      if (++y == c->out_height) y = 0, image += line * c->in_height;
    }
  }
}

#endif
