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

/*
 * Asks for `bytes` that follow in memory to be brought to the second cache, the share of them that `begin` to `end` is of `all`: the
 * weights that are next, while a processor multiplies with those it has. What processors fetch by themselves stops at the borders of
 * pages, and comes late where each weight is used only a few times. Addresses beyond the end of memory do no harm.
 */
static inline __attribute__((always_inline, unused)) void kn_fetch(const void *from, size_t bytes, int32_t begin, int32_t end, int32_t all) {
  const char *at = (const char *)from + bytes * (size_t)begin / (size_t)all;
  for (const char *last = (const char *)from + bytes * (size_t)end / (size_t)all; at < last; at += 64) __builtin_prefetch(at, 0, 2);
}

#endif
