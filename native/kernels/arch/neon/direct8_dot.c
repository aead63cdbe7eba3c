/*
 * direct8.dot: codes by weights in 8 bits with SDOT, 16 products and their additions to 4 sums an instruction; exact for everything.
 * Clang before 16 cannot compile it in a file for plain Armv8.
 */
#if defined(__aarch64__) && !defined(KN_PORTABLE) && (!defined(__clang__) || __clang_major__ >= 16)
#define KN_TARGET __attribute__((target("arch=armv8.2-a+dotprod")))
#include "common.h"

static inline int32_t place_in_step(int32_t channel, int32_t code) { return channel * 4 + code; }

static inline int needs_care(int32_t a, int32_t b) {
  (void)a, (void)b;
  return 0;
}

/* The instruction takes one step of a register itself. */
typedef struct {
  int8x16_t all;
  int32_t step;
} chosen;

KN_INLINE chosen choose(int8x16_t codes, int32_t n) {
  const chosen c = {codes, n};
  return c;
}

KN_INLINE int32x4_t add_products(int32x4_t sums, chosen codes, int8x16_t weights, int careful) {
  (void)careful;
  switch (codes.step) {
    case 0: return vdotq_laneq_s32(sums, weights, codes.all, 0);
    case 1: return vdotq_laneq_s32(sums, weights, codes.all, 1);
    case 2: return vdotq_laneq_s32(sums, weights, codes.all, 2);
    default: return vdotq_laneq_s32(sums, weights, codes.all, 3);
  }
}

#define KERNEL kn_convolution_direct8_dot
#define KERNEL_NAME "direct8.dot"
#define KERNEL_FEATURES (KN_NEON | KN_DOTPROD)
#include "direct8.h"
#endif
