/*
 * Convolutions that read or write nibbles: codes of up to 4 bits, two in a byte. Kernels know bytes only, so such a convolution is computed by
 * bands of a few rows of its output, each a convolution of its own, whose codes lie as bytes in scratch memory meanwhile.
 */
#ifndef EN_BAND_H
#define EN_BAND_H

#include "patch.h"

/* Codes of a row of nibbles are a multiple of this. */
enum { EN_NIBBLES = 8 };

static inline int en_is_nibbles(const uint32_t *tensor) { return tensor[IM_TENSOR_TYPE] == IM_TYPE_NIBBLES; }

/* Whether an operator reads or writes nibbles. */
int en_is_banded(const uint8_t *image, const en_record *record);

/* Bands of a convolution. */
static inline int32_t en_band_count(const kn_convolution *c) { return (c->out_height + IM_BAND_ROWS - 1) / IM_BAND_ROWS; }

/* Rows of the whole input and output that a band has; none of the input where it reads padding only. */
typedef struct {
  en_span in, out;
} en_band;

/* Makes a convolution of one image that of a band. */
en_band en_cut_band(int32_t band, kn_convolution *c);

/* Bytes of scratch memory for the codes of any band of a convolution, beside its kernel's; a multiple of KN_ALIGNMENT. */
size_t en_band_bytes(const uint8_t *image, const en_record *record, const kn_convolution *c);

/* Computes a band; the first `en_band_bytes` of scratch memory are for its codes, the kernel's follow. */
void en_run_band(const uint8_t *image, const en_record *record, const kn_convolution *whole, const kn_convolution_kernel *kernel,
                 const void *packed, const void *input, void *output, uint8_t *scratch, int32_t band);

#endif
