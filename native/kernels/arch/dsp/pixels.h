/*
 * What lies under the kernel for some output pixels, as the addresses of runs of channels: those outside the input are a border, which
 * the caller fills with the zero point. Runs are as long as one tap's channels, or as a whole row of the kernel where that is possible.
 */
#ifndef KN_DSP_PIXELS_H
#define KN_DSP_PIXELS_H

#include "common.h"

/* Where the kernel's first tap lies for an output pixel. */
typedef struct {
  const uint8_t *image; /* first channel of the group */
  int32_t y, x;
} kn_place;

/* Output pixels of all images, counted through; `group` is the group's first channel. */
KN_INLINE kn_place kn_place_of(const kn_convolution *c, const uint8_t *input, int32_t pixel, int32_t group) {
  const int32_t row = pixel / c->out_width;
  const kn_place p = {input + (size_t)(row / c->out_height) * c->in_height * c->in_width * c->in_channels + group,
                      row % c->out_height * c->stride_y - c->pad_top, pixel % c->out_width * c->stride_x - c->pad_left};
  return p;
}

KN_INLINE const uint8_t *kn_pixel_at(const kn_convolution *c, const uint8_t *image, int32_t y, int32_t x, const uint8_t *border) {
  const int inside = y >= 0 && y < c->in_height && x >= 0 && x < c->in_width;
  return inside ? image + ((size_t)y * c->in_width + (size_t)x) * c->in_channels : border;
}

/* Whether all of the kernel lies inside the input, and each of its rows in one piece. */
KN_INLINE int kn_is_inside(const kn_convolution *c, const kn_place *p) {
  return c->groups == 1 && c->dilation_x == 1 && p->x >= 0 && p->x + c->kernel_width <= c->in_width && p->y >= 0 &&
         p->y + (c->kernel_height - 1) * c->dilation_y < c->in_height;
}

/* A few bytes, for which a call of memcpy would cost more than they do; answers where they end. */
KN_INLINE uint8_t *kn_copy(uint8_t *to, const uint8_t *from, int32_t count) {
  for (; count >= 4; count -= 4, to += 4, from += 4) {
    const uint32_t word = kn_word(from);
    memcpy(to, &word, sizeof word);
  }
  for (; count > 0; count--) *to++ = *from++;
  return to;
}

/* All of the channels under the kernel, one behind the other. */
KN_OUTLINE void kn_collect(const kn_convolution *c, const kn_place *p, const uint8_t *border, uint8_t *to) {
  const int32_t channels = kn_group_in(c);
  if (kn_is_inside(c, p)) {
    const size_t row = (size_t)c->in_width * c->in_channels;
    const uint8_t *from = p->image + (size_t)p->y * row + (size_t)p->x * c->in_channels;
    for (int32_t ky = 0; ky < c->kernel_height; ky++, from += (size_t)c->dilation_y * row) to = kn_copy(to, from, channels * c->kernel_width);
    return;
  }
  for (int32_t ky = 0; ky < c->kernel_height; ky++) {
    for (int32_t kx = 0; kx < c->kernel_width; kx++) {
      to = kn_copy(to, kn_pixel_at(c, p->image, p->y + ky * c->dilation_y, p->x + kx * c->dilation_x, border), channels);
    }
  }
}

/* Whether an output pixel reads the input pixel of the same number and nothing else, whole words of it. */
KN_INLINE int kn_is_pointwise(const kn_convolution *c) {
  return c->kernel_height == 1 && c->kernel_width == 1 && c->stride_y == 1 && c->stride_x == 1 && c->pad_top == 0 && c->pad_left == 0 &&
         c->out_height == c->in_height && c->out_width == c->in_width && c->groups == 1 && c->in_channels % 4 == 0;
}

/* Calls take(context, sources, channels) with the addresses of runs of `count` pixels, in the order of the weights. */
#define KN_FOR_RUNS(c, places, count, border, take, context)                                                                     \
  do {                                                                                                                           \
    int all_inside = 1;                                                                                                          \
    for (int32_t i = 0; i < (count); i++) all_inside &= kn_is_inside(c, &(places)[i]);                                           \
    const int32_t taps = all_inside ? 1 : (c)->kernel_width, run = kn_group_in(c) * (c)->kernel_width / taps;                    \
    for (int32_t ky = 0; ky < (c)->kernel_height; ky++) {                                                                        \
      for (int32_t kx = 0; kx < taps; kx++) {                                                                                    \
        const uint8_t *sources[count];                                                                                           \
        for (int32_t i = 0; i < (count); i++) {                                                                                  \
          const kn_place *p = &(places)[i];                                                                                      \
          sources[i] = kn_pixel_at(c, p->image, p->y + ky * (c)->dilation_y, p->x + kx * (c)->dilation_x, border);               \
        }                                                                                                                        \
        take(context, sources, run);                                                                                             \
      }                                                                                                                          \
    }                                                                                                                            \
  } while (0)

#endif
