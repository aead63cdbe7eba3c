/* Winograd's convolutions for every 64-bit Arm processor. */
#if defined(__aarch64__) && !defined(KN_PORTABLE)
#include "winograd.h"

WINOGRAD(kn_convolution_winograd8_4x2_neon, 4x2, K4X2, "winograd8-4x2.neon", KN_NEON)
WINOGRAD(kn_convolution_winograd8_2x2_neon, 2x2, K2X2, "winograd8-2x2.neon", KN_NEON)
WINOGRAD(kn_convolution_winograd16_4x4_neon, 4x4, K4X4, "winograd16-4x4.neon", KN_NEON)
#endif
