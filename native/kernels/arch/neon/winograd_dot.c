/* Winograd's convolutions with the dot product; those of 16 bits are for processors without it, where products of 8 bits cost more. */
#if defined(__aarch64__) && !defined(KN_PORTABLE) && (!defined(__clang__) || __clang_major__ >= 16)
#define KN_DOT
#include "winograd.h"

WINOGRAD(kn_convolution_winograd8_4x2_dot, 4x2, K4X2, "winograd8-4x2.dot", KN_NEON | KN_DOTPROD)
WINOGRAD(kn_convolution_winograd8_2x2_dot, 2x2, K2X2, "winograd8-2x2.dot", KN_NEON | KN_DOTPROD)
#endif
