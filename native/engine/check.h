/* What the files of the checks share. A check answers NULL, or what is wrong. */
#ifndef EN_CHECK_H
#define EN_CHECK_H

#include "patch.h"

/* Large enough for any real model, small enough that products of two fit 64 bits and strides fit 32. */
#define EN_MAX_SIZE (1 << 24)
#define EN_MAX_ELEMENTS ((int64_t)1 << 30)
/* Of packed weights, so that their bytes fit 32 bits whatever they are rounded up to. */
#define EN_MAX_PACKED_WEIGHTS (1 << 24)

#define REQUIRE(condition, text)   \
  do {                             \
    if (!(condition)) return text; \
  } while (0)

static inline int en_is_size(int32_t value) { return value >= 1 && value <= EN_MAX_SIZE; }

/* Along one axis: positions stay small. Windows may lie beside the input altogether, as with a 1x1 kernel and padding. */
static inline int en_is_window(int32_t in, int32_t out, int32_t kernel, int32_t stride, int32_t dilation, int64_t pad) {
  if (!en_is_size(in) || !en_is_size(out) || !en_is_size(kernel) || !en_is_size(stride) || !en_is_size(dilation)) return 0;
  const int64_t extent = (int64_t)(kernel - 1) * dilation + 1;
  return extent <= EN_MAX_SIZE && pad >= 0 && pad <= EN_MAX_SIZE && (int64_t)(out - 1) * stride <= EN_MAX_SIZE;
}

/* Whether `count` bytes from `offset` lie in the data, beginning on a multiple of `alignment`. */
static inline int en_in_data(const uint8_t *image, uint32_t offset, uint64_t count, uint32_t alignment) {
  return offset % alignment == 0 && offset <= en_header(image)[IM_HEADER_DATA_BYTES] &&
         count <= en_header(image)[IM_HEADER_DATA_BYTES] - offset;
}

/* The stage record, of an image whose sections have been checked. */
const char *en_check_stage(const uint8_t *image, size_t bytes);

/* What patches hold of a tensor: inside of it, and no more than it has memory for. */
const char *en_check_regions(const uint8_t *image, const en_stage *stage, const uint32_t *tensor);

/* An operator in the stage or outside of it: its tensors are held in parts or as a whole as they have to be, and fit each other. */
const char *en_check_parts(const uint8_t *image, const en_stage *stage, const en_record *r, int32_t index);

#endif
