/* polynomial2.dsp: 3x3 convolutions with weights and codes of up to 2 bits, 12 multiply-accumulates an instruction. */
#define BITS 2
#define KERNEL kn_convolution_polynomial2_dsp
#define KERNEL_NAME "polynomial2.dsp"
#include "polynomial.h"
