/* direct8.dot: codes by weights in 8 bits with the dot product, which clang before 16 cannot compile in a file for plain Armv8. */
#if defined(__aarch64__) && !defined(KN_PORTABLE) && (!defined(__clang__) || __clang_major__ >= 16)
#define KN_DOT
#define KERNEL kn_convolution_direct8_dot
#define KERNEL_NAME "direct8.dot"
#define KERNEL_FEATURES (KN_NEON | KN_DOTPROD)
#include "direct8.h"
#endif
