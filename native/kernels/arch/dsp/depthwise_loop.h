/*
 * The loop of depthwise 3x3 convolutions: four channels of two pixels side by side, their codes and weights in 16 bits each, two registers
 * a pixel and a tap: channels 0 and 2, then 1 and 3. SMLABB and SMLATT multiply halves of registers. Then from sums to codes.
 */
#ifndef KN_DSP_DEPTHWISE_LOOP_H
#define KN_DSP_DEPTHWISE_LOOP_H

#include "store.h"

/* Pixels and channels at a time. */
enum { PIXELS = 2, CHANNELS = 4 };

/*
 * Pairs of pixels of a row. Codes go to `output` in any case, accumulators to `sums`. What is marked so advances. The assembly knows the
 * order.
 */
typedef struct {
  int32_t bias[CHANNELS], multipliers[CHANNELS];
  const uint32_t *codes;   /* advances; the first of three rows, two words a pixel */
  const uint32_t *weights; /* two words a tap, in the order of the rows */
  size_t row_bytes;        /* from the end of three taps' codes in a row to the next row's */
  uint8_t *output;         /* advances */
  size_t step;             /* from one pixel of the output to the next */
  int32_t zero;
  uint32_t low, above;     /* as in kn_finish */
  int32_t pairs;           /* of pixels; counts down to 0 */
  int32_t sums[PIXELS][CHANNELS];
  int32_t shifts[CHANNELS], is_shifted; /* of sums, before they are multiplied */
} depthwise_job;

#if KN_DSP_CODE

_Static_assert(offsetof(depthwise_job, codes) == 32 && offsetof(depthwise_job, row_bytes) == 40 && offsetof(depthwise_job, output) == 44 &&
                   offsetof(depthwise_job, zero) == 52 && offsetof(depthwise_job, pairs) == 64 && offsetof(depthwise_job, sums) == 68 &&
                   offsetof(depthwise_job, shifts) == 100 && offsetof(depthwise_job, is_shifted) == 116,
               "the assembly has these offsets as numbers");

#define MULTIPLY(A, B, C, D)                                                                     \
  "smlabb " A ", r12, r2, " A "\n smlabb " B ", lr, r3, " B "\n smlatt " C ", r12, r2, " C "\n"  \
  "smlatt " D ", lr, r3, " D "\n"
#define TAP(NEXT)                                                                                             \
  "ldrd r2, r3, [r1], #8\n ldrd r12, lr, [r0, #" NEXT "]\n" MULTIPLY("r8", "r9", "r10", "r11")                \
  "ldrd r12, lr, [r0], #8\n" MULTIPLY("r4", "r5", "r6", "r7")
#define NEXT_ROW "ldr r2, [sp]\n ldr r2, [r2, #40]\n add r0, r2\n"
#define ROW(NEXT) TAP(NEXT) TAP(NEXT) TAP(NEXT)
#define CODE(SUM, MULTIPLIER) "smmlar " SUM ", " SUM ", " MULTIPLIER ", lr\n usat " SUM ", #8, " SUM "\n"
#define JOIN(A, B, C, D) "orr " A ", " A ", " B ", lsl #8\n orr " A ", " A ", " C ", lsl #16\n orr " A ", " A ", " D ", lsl #24\n"
#define CLAMP(CODES)                                                                        \
  "uqsub8 " CODES ", " CODES ", r2\n uqadd8 " CODES ", " CODES ", r2\n"                     \
  "uqadd8 " CODES ", " CODES ", r3\n uqsub8 " CODES ", " CODES ", r3\n"
/* NEXT: bytes from a pixel's codes to those of the one beside it in the output; BOTH is twice that. */
#define PAIRS_OF_PIXELS(NEXT, BOTH)                                                                                       \
  "push {r0, r4-r11, lr}\n"                                                                                               \
  "1: ldr r0, [sp]\n ldm r0, {r4-r7}\n mov r8, r4\n mov r9, r5\n mov r10, r6\n mov r11, r7\n ldrd r0, r1, [r0, #32]\n"    \
  ROW(NEXT) NEXT_ROW ROW(NEXT) NEXT_ROW ROW(NEXT)                                                                         \
  "ldr r12, [sp]\n ldr r0, [r12, #32]\n adds r0, #" BOTH "\n str r0, [r12, #32]\n"                                        \
  "add r0, r12, #68\n stm r0, {r4-r11}\n ldr r0, [r12, #116]\n cbz r0, 3f\n add r0, r12, #100\n ldm r0, {r0-r3}\n"          \
  "lsl r4, r0\n lsl r5, r1\n lsl r6, r2\n lsl r7, r3\n lsl r8, r0\n lsl r9, r1\n lsl r10, r2\n lsl r11, r3\n"               \
  "3: add r0, r12, #16\n ldm r0, {r0-r3}\n ldr lr, [r12, #52]\n"                                                          \
  CODE("r4", "r0") CODE("r5", "r1") CODE("r6", "r2") CODE("r7", "r3") CODE("r8", "r0") CODE("r9", "r1") CODE("r10", "r2") \
  CODE("r11", "r3") JOIN("r4", "r5", "r6", "r7") JOIN("r8", "r9", "r10", "r11")                                           \
  "ldrd r2, r3, [r12, #56]\n orrs r1, r2, r3\n beq 2f\n" CLAMP("r4") CLAMP("r8")                                          \
  "2: ldrd r0, r1, [r12, #44]\n str r4, [r0]\n str r8, [r0, r1]\n add r0, r0, r1, lsl #1\n str r0, [r12, #44]\n"          \
  "ldr r0, [r12, #64]\n subs r0, #1\n str r0, [r12, #64]\n bne 1b\n add sp, #4\n pop {r4-r11, pc}\n"

KN_ASSEMBLY void depthwise_stride_1(depthwise_job *job) { __asm__ volatile(PAIRS_OF_PIXELS("8", "16")); }
KN_ASSEMBLY void depthwise_stride_2(depthwise_job *job) { __asm__ volatile(PAIRS_OF_PIXELS("16", "32")); }

#else

static inline void pairs_of_pixels(depthwise_job *job, size_t next) {
  do {
    for (size_t p = 0; p < PIXELS; p++) {
      const uint32_t *codes = job->codes + p * next, *weights = job->weights;
      for (int32_t k = 0; k < CHANNELS; k++) job->sums[p][k] = job->bias[k];
      for (int32_t i = 0; i < 9; i++, codes += 2, weights += 2) {
        if (i > 0 && i % 3 == 0) codes += job->row_bytes / sizeof *codes;
        for (int32_t k = 0; k < CHANNELS; k++) {
          const int32_t half = k / 2 * 16, product = (int16_t)(codes[k % 2] >> half) * (int16_t)(weights[k % 2] >> half);
          job->sums[p][k] = kn_wrapping_add(job->sums[p][k], product);
        }
      }
      for (int32_t k = 0; k < CHANNELS; k++) {
        const int32_t sum = kn_shifted(job->sums[p][k], job->shifts[k]);
        const uint32_t code = kn_byte(kn_scale(sum, job->multipliers[k], job->zero));
        job->output[p * job->step + (size_t)k] = (uint8_t)kn_clamped(code, job->low, job->above);
      }
    }
    job->codes += PIXELS * next;
    job->output += PIXELS * job->step;
  } while (--job->pairs > 0);
}

static inline void depthwise_stride_1(depthwise_job *job) { pairs_of_pixels(job, 2); }
static inline void depthwise_stride_2(depthwise_job *job) { pairs_of_pixels(job, 4); }

#endif
#endif
