/* outer2.dsp: any convolution with weights and codes of up to 2 bits, 6 multiply-accumulates an instruction. */
#define BITS 2
#define KERNEL kn_convolution_outer2_dsp
#define KERNEL_NAME "outer2.dsp"
#include "outer.h"
