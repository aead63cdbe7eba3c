/* The inner loop of the polynomial kernels: a strip of two words of pixels by two output channels, four multiplications a step. */
#ifndef KN_DSP_POLYNOMIAL_LOOP_H
#define KN_DSP_POLYNOMIAL_LOOP_H

#include "common.h"

/* How the steps of a product are summed: in `count` blocks of equal length. The assembly knows the order. */
typedef struct {
  uint32_t block_bytes, all_bytes;
  uint32_t entry; /* where the body of the loop is entered behind a block's first step */
  int32_t count;
} polynomial_blocks;

/* Steps of a round of the loop, and bytes of code for each. */
enum { POLYNOMIAL_ROUND = 16, POLYNOMIAL_CODE_BYTES = 6 * 4 };

/* At least two steps a block; the entry's lowest bit says that it is Thumb code. */
static inline polynomial_blocks polynomial_blocks_of(int32_t count, int32_t steps) {
  const int32_t block = steps / count, left_out = (1 - block) & (POLYNOMIAL_ROUND - 1);
  const polynomial_blocks b = {(uint32_t)block * 8, (uint32_t)steps * 8, (uint32_t)(left_out * POLYNOMIAL_CODE_BYTES + 1), count};
  return b;
}

/*
 * For each block, eight words to `raw`: low and high word of the first half of the strip and of the second, by the first channel, then by
 * the second. Codes and weights are two words a step.
 */
#if KN_DSP_CODE
KN_ASSEMBLY void polynomial_products(const uint32_t *codes, const uint32_t *weights, const polynomial_blocks *blocks, uint32_t *raw) {
#define LOAD "ldrd r2, r3, [r0], #8\n ldrd r12, lr, [r1], #8\n"
  __asm__ volatile(
      "push {r1-r11, lr}\n" /* the end of the block; blocks; raw */
      "ldr r12, [r2, #4]\n add r12, r0\n sub sp, #4\n str r12, [sp]\n"
      /* A block: its end, and its first step, which sets the sums. */
      "2: ldr r2, [sp, #8]\n ldr r2, [r2]\n add r2, r0\n str r2, [sp, #4]\n" LOAD
      "umull r4, r5, r2, r12\n umull r6, r7, r3, r12\n umull r8, r9, r2, lr\n umull r10, r11, r3, lr\n"
      "ldr r2, [sp, #8]\n ldr r2, [r2, #8]\n adr r3, 1f\n add r2, r3\n bx r2\n .balign 4\n"
      "1:\n"
      ".rept 16\n" LOAD
      "umlal r4, r5, r2, r12\n umlal r6, r7, r3, r12\n umlal r8, r9, r2, lr\n umlal r10, r11, r3, lr\n"
      ".endr\n"
      "ldr r2, [sp, #4]\n cmp r0, r2\n bne 1b\n"
      "ldr r3, [sp, #12]\n stm r3!, {r4-r11}\n str r3, [sp, #12]\n"
      "ldr r2, [sp]\n cmp r0, r2\n bne 2b\n"
      "add sp, #16\n pop {r4-r11, pc}\n");
#undef LOAD
}
#else
static inline void polynomial_products(const uint32_t *codes, const uint32_t *weights, const polynomial_blocks *blocks, uint32_t *raw) {
  const size_t steps = blocks->block_bytes / 8;
  for (int32_t b = 0; b < blocks->count; b++, raw += 8) {
    uint64_t sums[4] = {0, 0, 0, 0};
    for (size_t i = 0; i < steps; i++, codes += 2, weights += 2) {
      for (int32_t k = 0; k < 4; k++) sums[k] += (uint64_t)codes[k % 2] * weights[k / 2];
    }
    for (int32_t k = 0; k < 4; k++) raw[2 * k] = (uint32_t)sums[k], raw[2 * k + 1] = (uint32_t)(sums[k] >> 32);
  }
}
#endif
#endif
