/* polynomial4.dsp: 3x3 convolutions with weights and codes of up to 4 bits, 6 multiply-accumulates an instruction. */
#define BITS 4
#define KERNEL kn_convolution_polynomial4_dsp
#define KERNEL_NAME "polynomial4.dsp"
#include "polynomial.h"
