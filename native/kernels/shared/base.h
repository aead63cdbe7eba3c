/* What the kernels of all instruction sets share. */
#ifndef KN_SHARED_BASE_H
#define KN_SHARED_BASE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../kernels.h"

/* Before a loop over registers, whose trip count is constant. */
#if defined(__clang__)
#define KN_UNROLL _Pragma("unroll")
#else
#define KN_UNROLL _Pragma("GCC unroll 48")
#endif

/* Output channels of a panel. */
enum { KN_PANEL = 16 };

static inline int32_t kn_min(int32_t a, int32_t b) { return a < b ? a : b; }
static inline int32_t kn_max(int32_t a, int32_t b) { return a > b ? a : b; }
static inline int32_t kn_up(int32_t a, int32_t b) { return (a + b - 1) / b; }
static inline size_t kn_aligned(size_t bytes) { return (bytes + KN_ALIGNMENT - 1) / KN_ALIGNMENT * KN_ALIGNMENT; }

#endif
