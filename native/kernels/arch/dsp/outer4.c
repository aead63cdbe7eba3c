/* outer4.dsp: any convolution with weights and codes of up to 4 bits, 4 multiply-accumulates an instruction. */
#define BITS 4
#define KERNEL kn_convolution_outer4_dsp
#define KERNEL_NAME "outer4.dsp"
#include "outer.h"
