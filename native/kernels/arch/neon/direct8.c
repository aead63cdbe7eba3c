/* direct8.neon: codes by weights in 8 bits, for every 64-bit Arm processor; products.h says how. */
#if defined(__aarch64__) && !defined(KN_PORTABLE)
#define KERNEL kn_convolution_direct8_neon
#define KERNEL_NAME "direct8.neon"
#define KERNEL_FEATURES KN_NEON
#include "direct8.h"
#endif
