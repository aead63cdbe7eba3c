/*
 * Loops of direct16: four pixels by two output channels, by SMLAD: codes in pairs of 16 bits. A word of weights serves a pair of codes and
 * both channels, and is taken apart by one instruction less than one would expect:
 *
 *   8 bits  Each half of the word is w0 + 128 + 256 w1. Multiplied as it is, it sums S0 + 128 A + 256 S1, with A the sum of the codes;
 *           SXTB16 takes out w1, which sums S1. The rest is subtraction, once.
 *   4 bits  Weights have 8 added. UXTB16 takes a pair's weights out of the word; each half, w0 + 16 w1, sums S0 + 16 S1, and masked by
 *           0x000F000F it sums S0. A word has the weights of two pairs: in bytes 0 and 2, and in 1 and 3.
 *
 * Codes are [pair][pixel] words. Where taps lie side by side (a kernel three wide, stride 1), they are [pair][column], six columns, and
 * the weights [pair][tap]: a tap's four pixels begin one column further than those of the tap before.
 *
 * What follows the products stays in registers too: scaling, rounding and storing are a third of a small layer's instructions if a
 * compiler does them.
 */
#ifndef KN_DSP_DIRECT16_LOOPS_H
#define KN_DSP_DIRECT16_LOOPS_H

#include "store.h"

enum { COLUMNS = 6, TAPS = 3, PIXELS = 4 };

/*
 * The output channels of four pixels, in pairs of channels; the loops advance what is marked so. The assembly knows the order.
 * `offsets` is what each pixel's sums start from, beside the biases: of what weights are as they lie, and of what is taken out of them.
 */
typedef struct {
  uint32_t offsets[2][PIXELS];
  const uint32_t *codes, *codes_end;
  const uint32_t *weights;              /* advances */
  const int32_t *bias, *multipliers;    /* advance */
  uint8_t *output;                      /* advances; the first pixel's */
  size_t step;                          /* from one pixel of the output to the next */
  int32_t zero, multiplier_shift;
  uint32_t low, above;                  /* as in kn_finish */
  int32_t pairs;                        /* of channels; counts down to 0 */
  uint32_t entry;                       /* where the body of a plain loop is entered */
  int32_t only_sums;                    /* one pair of channels at a time: its accumulators, nothing else, go to `sums` */
  int32_t sums[2][PIXELS];
  const uint8_t *shifts;                /* advance; they and the other are as in kn_finish */
  int32_t more_shift;
} direct16_job;

#if KN_DSP_CODE

#define FIRST_PIXELS "smlad r4, r2, r12, r4\n smlad r5, r2, lr, r5\n smlad r8, r3, r12, r8\n smlad r9, r3, lr, r9\n"
#define OTHER_PIXELS "smlad r6, r2, r12, r6\n smlad r7, r2, lr, r7\n smlad r10, r3, r12, r10\n smlad r11, r3, lr, r11\n"
#define EIGHT_BITS "ldr r2, [r1], #4\n sxtb16 r3, r2, ror #8\n"
#define FOUR_BITS "and r3, r2, #0x000F000F\n"
/* One pair of codes at the start of a row of columns, then one and two columns further. */
#define TAP_0 "ldrd r12, lr, [r0, #24]!\n" FIRST_PIXELS "ldrd r12, lr, [r0, #8]\n" OTHER_PIXELS
#define TAP_1 "ldrd r12, lr, [r0, #4]\n" FIRST_PIXELS "ldrd r12, lr, [r0, #12]\n" OTHER_PIXELS
#define TAP_2 "ldrd r12, lr, [r0, #8]\n" FIRST_PIXELS "ldrd r12, lr, [r0, #16]\n" OTHER_PIXELS
#define ONE_TAP "ldrd r12, lr, [r0], #8\n" FIRST_PIXELS "ldrd r12, lr, [r0], #8\n" OTHER_PIXELS

/* On the stack lie the job and where its codes end; BACK is how far behind them the loop's pointer is. */
#define BEGIN(BACK) "push {r0, r1, r4-r11, lr}\n ldr r1, [r0, #36]\n sub r1, #" BACK "\n str r1, [sp, #4]\n"
/* The next two channels. Sums begin with offsets and biases: b0 + (b1 << SHIFT), and OTHER, the bias of what is taken out. */
#define NEXT_PAIR(SHIFT, OTHER, BACK)                                                                    \
  "2: ldr r0, [sp]\n ldm r0, {r4-r11}\n ldr r1, [r0, #44]\n ldrd r2, r3, [r1], #8\n str r1, [r0, #44]\n" \
  "add r12, r2, r3, lsl #" SHIFT "\n add r4, r12\n add r5, r12\n add r6, r12\n add r7, r12\n"            \
  "add r8, " OTHER "\n add r9, " OTHER "\n add r10, " OTHER "\n add r11, " OTHER "\n"                    \
  "ldr r1, [r0, #40]\n ldr r0, [r0, #32]\n sub r0, #" BACK "\n"
/* Plain loops are entered so far behind their start that the rest is a whole number of rounds. */
#define ENTER "ldr r2, [sp]\n ldr r2, [r2, #80]\n adr r3, 1f\n add r2, r3\n bx r2\n .balign 4\n"
#define REPEAT "ldr r2, [sp, #4]\n cmp r0, r2\n bne 1b\n ldr r0, [sp]\n str r1, [r0, #40]\n"
/* Afterwards the channels' sums are in r4 to r7 and r8 to r11; with 4 bits it is the second channel that comes first. */
#define APART_8 "sub r4, r4, r8, lsl #8\n sub r5, r5, r9, lsl #8\n sub r6, r6, r10, lsl #8\n sub r7, r7, r11, lsl #8\n"
#define APART_4                                           \
  "sub r4, r8\n sub r5, r9\n sub r6, r10\n sub r7, r11\n" \
  "asrs r4, r4, #4\n asrs r5, r5, #4\n asrs r6, r6, #4\n asrs r7, r7, #4\n"
#define CODE(SUM, MULTIPLIER) "smmlar " SUM ", " SUM ", " MULTIPLIER ", r12\n usat " SUM ", #8, " SUM "\n"
#define CLAMP(CODES)                                                                        \
  "uqsub8 " CODES ", " CODES ", r2\n uqadd8 " CODES ", " CODES ", r2\n"                     \
  "uqadd8 " CODES ", " CODES ", r3\n uqsub8 " CODES ", " CODES ", r3\n"
#define SHIFT(A, B, C, D) "ldrb r12, [r1], #1\n add r12, lr\n lsl " A ", r12\n lsl " B ", r12\n lsl " C ", r12\n lsl " D ", r12\n"
#define SHIFT_LOW SHIFT("r4", "r5", "r6", "r7")
#define SHIFT_HIGH SHIFT("r8", "r9", "r10", "r11")
/*
 * From sums to the output. A and B are the multipliers of r4 to r7 and of r8 to r11; SHIFTS shifts the sums of the first channel, then of the
 * second; JOIN puts two channels' codes into a half word.
 */
#define FINISH(A, B, SHIFTS, JOIN, KEEP)                                                                                          \
  "ldr r2, [r0, #84]\n cmp r2, #0\n bne 3f\n"                                                                             \
  "ldr r1, [r0, #48]\n ldrd r2, r3, [r1], #8\n str r1, [r0, #48]\n ldrd r12, r1, [r0, #60]\n lsls r2, r1\n lsls r3, r1\n" \
  "ldr r1, [r0, #120]\n cbz r1, 5f\n ldr lr, [r0, #124]\n" SHIFTS "str r1, [r0, #120]\n ldr r12, [r0, #60]\n 5:\n"          \
  CODE("r4", A) CODE("r5", A) CODE("r6", A) CODE("r7", A) CODE("r8", B) CODE("r9", B) CODE("r10", B) CODE("r11", B)       \
  JOIN "ldrd r2, r3, [r0, #68]\n orrs r1, r2, r3\n beq 4f\n" CLAMP("r4") CLAMP("r5") CLAMP("r6") CLAMP("r7")              \
  "4: ldrd r2, r3, [r0, #52]\n strh r4, [r2]\n strh r5, [r2, r3]\n strh r6, [r2, r3, lsl #1]\n"                           \
  "add r1, r2, r3\n strh r7, [r1, r3, lsl #1]\n adds r2, #2\n str r2, [r0, #52]\n"                                        \
  "ldr r2, [r0, #76]\n subs r2, #1\n str r2, [r0, #76]\n bne 2b\n add sp, #8\n pop {r4-r11, pc}\n"                        \
  "3: add r0, #88\n" KEEP "add sp, #8\n pop {r4-r11, pc}\n"
#define FINISH_8                                                                                                      \
  APART_8 FINISH("r2", "r3", SHIFT_LOW SHIFT_HIGH,                                                                                          \
                 "orr r4, r4, r8, lsl #8\n orr r5, r5, r9, lsl #8\n orr r6, r6, r10, lsl #8\n orr r7, r7, r11, lsl #8\n", \
                 "stm r0, {r4-r11}\n")
#define FINISH_4                                                                                                      \
  APART_4 FINISH("r3", "r2", SHIFT_HIGH SHIFT_LOW,                                                                                          \
                 "orr r4, r8, r4, lsl #8\n orr r5, r9, r5, lsl #8\n orr r6, r10, r6, lsl #8\n orr r7, r11, r7, lsl #8\n", \
                 "stm r0!, {r8-r11}\n stm r0, {r4-r7}\n")

KN_ASSEMBLY void direct16_slide_8(direct16_job *job) {
  __asm__ volatile(BEGIN("24") NEXT_PAIR("8", "r3", "24") "1:\n"
                   ".rept 2\n" EIGHT_BITS TAP_0 EIGHT_BITS TAP_1 EIGHT_BITS TAP_2 ".endr\n" REPEAT FINISH_8);
}

KN_ASSEMBLY void direct16_slide_4(direct16_job *job) {
  __asm__ volatile(BEGIN("24") NEXT_PAIR("4", "r2", "24") "1:\n"
                   "ldr r2, [r1]\n uxtb16 r2, r2\n" FOUR_BITS TAP_0
                   "ldr r2, [r1, #4]\n uxtb16 r2, r2\n" FOUR_BITS TAP_1
                   "ldr r2, [r1, #8]\n uxtb16 r2, r2\n" FOUR_BITS TAP_2
                   "ldr r2, [r1], #4\n uxtb16 r2, r2, ror #8\n" FOUR_BITS TAP_0
                   "ldr r2, [r1], #4\n uxtb16 r2, r2, ror #8\n" FOUR_BITS TAP_1
                   "ldr r2, [r1], #4\n uxtb16 r2, r2, ror #8\n" FOUR_BITS TAP_2 REPEAT FINISH_4);
}

/* Pairs of codes in a round of the plain loops, and bytes of code for each. */
enum { ROUND = 8, CODE_BYTES_8 = 12 * 4, CODE_BYTES_4 = 13 * 4 };

KN_ASSEMBLY void direct16_plain_8(direct16_job *job) {
  __asm__ volatile(BEGIN("0") NEXT_PAIR("8", "r3", "0") ENTER "1:\n"
                   ".rept 8\n" EIGHT_BITS ONE_TAP ".endr\n" REPEAT FINISH_8);
}

KN_ASSEMBLY void direct16_plain_4(direct16_job *job) {
  __asm__ volatile(BEGIN("0") NEXT_PAIR("4", "r2", "0") ENTER "1:\n"
                   ".rept 4\n"
                   "ldr.w r2, [r1]\n uxtb16 r2, r2\n" FOUR_BITS ONE_TAP
                   "ldr r2, [r1], #4\n uxtb16 r2, r2, ror #8\n" FOUR_BITS ONE_TAP ".endr\n" REPEAT FINISH_4);
}

/* The entry for so many pairs of codes; the lowest bit says that this is Thumb code. */
static inline uint32_t direct16_entry(int32_t pairs, int32_t width) {
  return (uint32_t)((-pairs & (ROUND - 1)) * (width == 8 ? CODE_BYTES_8 : CODE_BYTES_4) + 1);
}

_Static_assert(offsetof(direct16_job, codes) == 32 && offsetof(direct16_job, bias) == 44 && offsetof(direct16_job, output) == 52 &&
                   offsetof(direct16_job, zero) == 60 && offsetof(direct16_job, low) == 68 && offsetof(direct16_job, pairs) == 76 &&
                   offsetof(direct16_job, sums) == 88 && offsetof(direct16_job, shifts) == 120 &&
                   offsetof(direct16_job, more_shift) == 124,
               "the assembly has these offsets as numbers");

#else

KN_INLINE void one_pair(const uint32_t *codes, uint32_t whole, uint32_t part, uint32_t sums[2][PIXELS]) {
  for (int32_t p = 0; p < PIXELS; p++) {
    sums[0][p] = kn_add_pair(sums[0][p], codes[p], whole);
    sums[1][p] = kn_add_pair(sums[1][p], codes[p], part);
  }
}

/* The products of two pairs of codes, whose weights begin at `weights` and are `taps` words apart; answers the words read. */
KN_INLINE void two_pairs(int32_t width, const uint32_t *codes, size_t step, const uint32_t *weights, int32_t taps, uint32_t sums[2][PIXELS]) {
  for (int32_t half = 0; half < 2; half++, codes += step) {
    if (width == 8) {
      const uint32_t word = weights[half * taps], first = (uint8_t)(word >> 8), second = word >> 24;
      one_pair(codes, word, (uint16_t)(int8_t)first | (uint32_t)(int8_t)second << 16, sums);
    } else {
      const uint32_t bytes = half == 0 ? kn_even_bytes(*weights) : kn_odd_bytes(*weights);
      one_pair(codes, bytes, bytes & 0x000F000Fu, sums);
    }
  }
}

KN_INLINE uint32_t code_of(const direct16_job *job, int32_t sum, int32_t multiplier) {
  const uint32_t code = kn_byte(kn_scale(sum, (int32_t)((uint32_t)multiplier << job->multiplier_shift), job->zero));
  return kn_clamped(code, job->low, job->above) & 255;
}

/* What the assembly does, in its order. */
static inline void direct16_channels(direct16_job *job, int32_t width, int32_t taps) {
  const size_t step = taps == 1 ? PIXELS : COLUMNS;
  do {
    const uint32_t b0 = (uint32_t)job->bias[0], b1 = (uint32_t)job->bias[1];
    uint32_t sums[2][PIXELS];
    job->bias += 2;
    for (int32_t p = 0; p < PIXELS; p++) {
      sums[0][p] = job->offsets[0][p] + b0 + (b1 << width);
      sums[1][p] = job->offsets[1][p] + (width == 8 ? b1 : b0);
    }
    for (const uint32_t *codes = job->codes; codes < job->codes_end; codes += 2 * step) {
      for (int32_t t = 0; t < taps; t++) two_pairs(width, codes + t, step, job->weights + t, taps, sums);
      job->weights += taps * width / 4;
    }
    for (int32_t p = 0; p < PIXELS; p++) {
      const uint32_t whole = sums[0][p], part = sums[1][p];
      job->sums[0][p] = (int32_t)(width == 8 ? whole - (part << 8) : part);
      job->sums[1][p] = width == 8 ? (int32_t)part : (int32_t)(whole - part) >> 4;
    }
    if (job->only_sums) return;
    for (int32_t o = 0; o < 2; o++) {
      const int32_t shift = job->shifts == NULL ? 0 : *job->shifts++ + job->more_shift;
      for (int32_t p = 0; p < PIXELS; p++) {
        const uint32_t code = code_of(job, kn_shifted(job->sums[o][p], shift), job->multipliers[o]);
        job->output[job->step * (size_t)p + (size_t)o] = (uint8_t)code;
      }
    }
    job->multipliers += 2;
    job->output += 2;
  } while (--job->pairs > 0);
}

static inline void direct16_slide_8(direct16_job *job) { direct16_channels(job, 8, TAPS); }
static inline void direct16_slide_4(direct16_job *job) { direct16_channels(job, 4, TAPS); }
static inline void direct16_plain_8(direct16_job *job) { direct16_channels(job, 8, 1); }
static inline void direct16_plain_4(direct16_job *job) { direct16_channels(job, 4, 1); }
static inline uint32_t direct16_entry(int32_t pairs, int32_t width) {
  (void)pairs, (void)width;
  return 0;
}

#endif
#endif
