/*
 * The loop of the polynomial kernels over the strips of a row: a strip of two words of pixels by two output channels, four multiplications a
 * step; then from the coefficients to codes. BITS says which polynomials; see polynomial.h.
 */
#ifndef KN_DSP_POLYNOMIAL_LOOP_H
#define KN_DSP_POLYNOMIAL_LOOP_H

#include "common.h"

#if BITS == 4
enum { FIELD = 14, WORD_PIXELS = 2 };
#else
enum { FIELD = 10, WORD_PIXELS = 4 };
#endif
/* Pixels of a strip: two words; and coefficients of its product. */
enum { STRIP = 2 * WORD_PIXELS, COEFFICIENTS = STRIP + 2 };

/* A channel: what the next strip takes up of the last one is carried. */
typedef struct {
  int32_t bias, multiplier;
  uint32_t carried[2];
} polynomial_channel;

/*
 * Some strips of a row of two output channels. A strip completes the outputs of its pixels but the last two coefficients, and those carried
 * to it. Its codes go to `output` in any case, its accumulators to `sums`. What is marked so advances. The assembly knows the order.
 */
typedef struct {
  const uint32_t *codes;             /* advances; two words a step, as weights */
  const uint32_t *weights;
  uint32_t block_bytes, strip_bytes; /* of codes: added up in fields; of a strip */
  uint32_t entry;                    /* where the body of the loop is entered behind a block's first step */
  int32_t blocks;
  uint8_t *output;                   /* advances; the codes of two channels lie side by side */
  size_t step;                       /* from one pixel of the output to the next */
  const int32_t *corrections;        /* advances; of each output, added to its sum */
  int32_t zero;
  uint32_t low, above;               /* as in kn_finish */
  int32_t strips;                    /* counts down to 0 */
  int32_t skips_first;               /* nothing is stored for the first output of the first strip; becomes 0 */
  polynomial_channel channels[2];
  uint32_t *raw;                     /* eight words for each block */
  int32_t sums[2][STRIP];
} polynomial_job;

#if KN_DSP_CODE

/* Steps of a round of the loop, and bytes of code for each. */
enum { POLYNOMIAL_ROUND = 16, POLYNOMIAL_CODE_BYTES = 6 * 4 };

/* Of at least two steps a block; the lowest bit says that this is Thumb code. */
static inline uint32_t polynomial_entry(uint32_t block_steps) {
  return ((1 - block_steps) & (POLYNOMIAL_ROUND - 1)) * POLYNOMIAL_CODE_BYTES + 1;
}

_Static_assert(offsetof(polynomial_job, output) == 24 && offsetof(polynomial_job, corrections) == 32 && offsetof(polynomial_job, low) == 40 &&
                   offsetof(polynomial_job, strips) == 48 && offsetof(polynomial_job, channels) == 56 && offsetof(polynomial_job, raw) == 88 &&
                   offsetof(polynomial_job, sums) == 92,
               "the assembly has these offsets as numbers");

/* On the stack: the job, the end of the block, where sums go, the end of the strip, codes of the first channel. */
#define LOAD "ldrd r2, r3, [r0], #8\n ldrd r12, lr, [r1], #8\n"
#define PRODUCTS                                                                                                           \
  "push {r4-r11, lr}\n sub sp, #24\n str r0, [sp]\n"                                                                       \
  "0: ldr r2, [sp]\n ldrd r0, r1, [r2]\n ldr r3, [r2, #12]\n add r3, r0\n str r3, [sp, #12]\n ldr r3, [r2, #88]\n str r3, [sp, #8]\n" \
  /* A block: its end, and its first step, which sets the sums. */                                                         \
  "2: ldr r2, [sp]\n ldr r3, [r2, #8]\n add r3, r0\n str r3, [sp, #4]\n" LOAD                                              \
  "umull r4, r5, r2, r12\n umull r6, r7, r3, r12\n umull r8, r9, r2, lr\n umull r10, r11, r3, lr\n"                        \
  "ldr r2, [sp]\n ldr r2, [r2, #16]\n adr r3, 1f\n add r2, r3\n bx r2\n .balign 4\n"                                       \
  "1:\n .rept 16\n" LOAD                                                                                                   \
  "umlal r4, r5, r2, r12\n umlal r6, r7, r3, r12\n umlal r8, r9, r2, lr\n umlal r10, r11, r3, lr\n .endr\n"                \
  "ldr r2, [sp, #4]\n cmp r0, r2\n bne 1b\n"                                                                               \
  "ldr r3, [sp, #8]\n stm r3!, {r4-r11}\n str r3, [sp, #8]\n ldr r2, [sp, #12]\n cmp r0, r2\n bne 2b\n"                    \
  "mov r2, r0\n ldr r0, [sp]\n str r2, [r0]\n"
#define CODE(SUM, MULTIPLIER, ZERO) "smmlar " SUM ", " SUM ", " MULTIPLIER ", " ZERO "\n usat " SUM ", #8, " SUM "\n"
#define JOIN(A, B, C, D) "orr " A ", " A ", " B ", lsl #8\n orr " A ", " A ", " C ", lsl #16\n orr " A ", " A ", " D ", lsl #24\n"
#define CLAMP(CODES)                                                                        \
  "uqsub8 " CODES ", " CODES ", r4\n uqadd8 " CODES ", " CODES ", r4\n"                     \
  "uqadd8 " CODES ", " CODES ", r5\n uqsub8 " CODES ", " CODES ", r5\n"
/* Four pixels of both channels become four half words: FIRST has pixels 0 and 2, OTHER 1 and 3. */
#define INTERLEAVE(FIRST, OTHER)                                                                             \
  "uxtb16 r8, " FIRST "\n uxtb16 r9, " OTHER "\n uxtb16 " FIRST ", " FIRST ", ror #8\n"                      \
  "uxtb16 " OTHER ", " OTHER ", ror #8\n orr " OTHER ", " FIRST ", " OTHER ", lsl #8\n orr " FIRST ", r8, r9, lsl #8\n"
/* Three of four pixels at r4, r5 apart. */
#define STORE_REST(FIRST, OTHER)                                                                       \
  "strh " OTHER ", [r4, r5]\n lsrs " FIRST ", " FIRST ", #16\n strh " FIRST ", [r4, r5, lsl #1]\n"     \
  "add r4, r4, r5, lsl #1\n lsrs " OTHER ", " OTHER ", #16\n strh " OTHER ", [r4, r5]\n add r4, r4, r5, lsl #1\n"
#define NEXT_STRIP                                                                               \
  "str r4, [r0, #24]\n ldr r2, [r0, #48]\n subs r2, #1\n str r2, [r0, #48]\n bne 0b\n"           \
  "add sp, #24\n pop {r4-r11, pc}\n"

#if BITS == 4
/* One channel: fields 0 to 5 in r2, r3, r12, r4, r5, r6, of all blocks; its codes in r2. LOW, HIGH and NEXT: its words in `raw`, of the next block. */
#define CHANNEL(RAW, NEXT, BIAS, CARRIED, SUMS, LOOP, END)                                                                    \
  "ldr r1, [r0, #88]\n ldrd r4, r5, [r1, #" RAW "]\n ldrd r6, r7, [r1, #" RAW " + 8]\n"                                       \
  "ubfx r2, r4, #0, #14\n ubfx r3, r4, #14, #14\n lsr r12, r4, #28\n bfi r12, r5, #4, #10\n"                                  \
  "ubfx lr, r6, #0, #14\n add r12, lr\n lsr r4, r5, #10\n ubfx lr, r6, #14, #14\n add r4, lr\n"                               \
  "lsr r5, r6, #28\n bfi r5, r7, #4, #10\n lsr r6, r7, #10\n"                                                                 \
  "ldr lr, [r0, #20]\n subs lr, #1\n beq " END "f\n"                                                                          \
  LOOP ": ldrd r7, r8, [r1, #" NEXT "]\n ldrd r9, r10, [r1, #" NEXT " + 8]\n adds r1, #32\n"                                  \
  "ubfx r11, r7, #0, #14\n add r2, r11\n ubfx r11, r7, #14, #14\n add r3, r11\n lsr r11, r7, #28\n bfi r11, r8, #4, #10\n"    \
  "add r12, r11\n add r4, r4, r8, lsr #10\n ubfx r11, r9, #0, #14\n add r12, r11\n ubfx r11, r9, #14, #14\n add r4, r11\n"    \
  "lsr r11, r9, #28\n bfi r11, r10, #4, #10\n add r5, r11\n add r6, r6, r10, lsr #10\n subs lr, #1\n bne " LOOP "b\n"         \
  END ": ldrd r7, r8, [r0, #" CARRIED "]\n add r2, r7\n add r3, r8\n strd r5, r6, [r0, #" CARRIED "]\n"                       \
  "ldr r7, [r0, #32]\n ldm r7, {r8-r11}\n add r2, r8\n add r3, r9\n add r12, r10\n add r4, r11\n"                             \
  "ldrd r7, r8, [r0, #" BIAS "]\n add r2, r7\n add r3, r7\n add r12, r7\n add r4, r7\n"                                       \
  "strd r2, r3, [r0, #" SUMS "]\n strd r12, r4, [r0, #" SUMS " + 8]\n ldr lr, [r0, #36]\n"                                    \
  CODE("r2", "r8", "lr") CODE("r3", "r8", "lr") CODE("r12", "r8", "lr") CODE("r4", "r8", "lr") JOIN("r2", "r3", "r12", "r4")

KN_ASSEMBLY void polynomial_strips(polynomial_job *job) {
  __asm__ volatile(PRODUCTS CHANNEL("0", "32", "56", "64", "92", "3", "4") "str r2, [sp, #16]\n"
                   CHANNEL("16", "48", "72", "80", "108", "5", "6") "ldr r3, [sp, #16]\n"
                   "ldr r4, [r0, #32]\n adds r4, #16\n str r4, [r0, #32]\n"
                   "ldrd r4, r5, [r0, #40]\n orrs r6, r4, r5\n beq 7f\n" CLAMP("r2") CLAMP("r3") "7:\n" INTERLEAVE("r3", "r2")
                   "ldrd r4, r5, [r0, #24]\n ldr r6, [r0, #52]\n cbnz r6, 8f\n strh r3, [r4]\n"
                   "8: movs r6, #0\n str r6, [r0, #52]\n" STORE_REST("r3", "r2") NEXT_STRIP);
}
#else
/* One channel: fields 0 to 9 in r2 to r11; its codes in r2 and r6. */
#define CHANNEL(RAW, NEXT, BIAS, CARRIED, SUMS, LOOP, END)                                                                   \
  "ldr r1, [r0, #88]\n ldrd r12, lr, [r1, #" RAW "]\n"                                                                       \
  "ubfx r2, r12, #0, #10\n ubfx r3, r12, #10, #10\n ubfx r4, r12, #20, #10\n lsr r5, r12, #30\n bfi r5, lr, #2, #8\n"        \
  "ubfx r6, lr, #8, #10\n lsr r7, lr, #18\n ldrd r12, lr, [r1, #" RAW " + 8]\n"                                              \
  "ubfx r11, r12, #0, #10\n add r6, r11\n ubfx r11, r12, #10, #10\n add r7, r11\n ubfx r8, r12, #20, #10\n"                  \
  "lsr r9, r12, #30\n bfi r9, lr, #2, #8\n ubfx r10, lr, #8, #10\n lsr r11, lr, #18\n"                                       \
  "ldr r0, [r0, #20]\n subs r0, #1\n beq " END "f\n"                                                                         \
  LOOP ": str r0, [sp, #4]\n ldrd r12, lr, [r1, #" NEXT "]\n"                                                                \
  "ubfx r0, r12, #0, #10\n add r2, r0\n ubfx r0, r12, #10, #10\n add r3, r0\n ubfx r0, r12, #20, #10\n add r4, r0\n"         \
  "lsr r0, r12, #30\n bfi r0, lr, #2, #8\n add r5, r0\n ubfx r0, lr, #8, #10\n add r6, r0\n add r7, r7, lr, lsr #18\n"       \
  "ldrd r12, lr, [r1, #" NEXT " + 8]\n adds r1, #32\n"                                                                       \
  "ubfx r0, r12, #0, #10\n add r6, r0\n ubfx r0, r12, #10, #10\n add r7, r0\n ubfx r0, r12, #20, #10\n add r8, r0\n"         \
  "lsr r0, r12, #30\n bfi r0, lr, #2, #8\n add r9, r0\n ubfx r0, lr, #8, #10\n add r10, r0\n add r11, r11, lr, lsr #18\n"    \
  "ldr r0, [sp, #4]\n subs r0, #1\n bne " LOOP "b\n"                                                                         \
  END ": ldr r0, [sp]\n ldrd r12, lr, [r0, #" CARRIED "]\n add r2, r12\n add r3, lr\n strd r10, r11, [r0, #" CARRIED "]\n"   \
  "ldr r1, [r0, #32]\n ldm r1!, {r10, r11, r12, lr}\n add r2, r10\n add r3, r11\n add r4, r12\n add r5, lr\n"                \
  "ldm r1, {r10, r11, r12, lr}\n add r6, r10\n add r7, r11\n add r8, r12\n add r9, lr\n"                                     \
  "ldrd r10, r11, [r0, #" BIAS "]\n add r2, r10\n add r3, r10\n add r4, r10\n add r5, r10\n"                                 \
  "add r6, r10\n add r7, r10\n add r8, r10\n add r9, r10\n add r1, r0, #" SUMS "\n stm r1, {r2-r9}\n ldr r12, [r0, #36]\n"   \
  CODE("r2", "r11", "r12") CODE("r3", "r11", "r12") CODE("r4", "r11", "r12") CODE("r5", "r11", "r12")                        \
  CODE("r6", "r11", "r12") CODE("r7", "r11", "r12") CODE("r8", "r11", "r12") CODE("r9", "r11", "r12")                        \
  JOIN("r2", "r3", "r4", "r5") JOIN("r6", "r7", "r8", "r9")

KN_ASSEMBLY void polynomial_strips(polynomial_job *job) {
  __asm__ volatile(PRODUCTS CHANNEL("0", "32", "56", "64", "92", "3", "4") "strd r2, r6, [sp, #16]\n"
                   CHANNEL("16", "48", "72", "80", "124", "5", "6") "ldrd r3, r7, [sp, #16]\n"
                   "ldr r4, [r0, #32]\n adds r4, #32\n str r4, [r0, #32]\n"
                   "ldrd r4, r5, [r0, #40]\n orrs r8, r4, r5\n beq 7f\n" CLAMP("r2") CLAMP("r3") CLAMP("r6") CLAMP("r7")
                   "7:\n" INTERLEAVE("r3", "r2") INTERLEAVE("r7", "r6")
                   "ldrd r4, r5, [r0, #24]\n ldr r1, [r0, #52]\n cbnz r1, 8f\n strh r3, [r4]\n"
                   "8: movs r1, #0\n str r1, [r0, #52]\n" STORE_REST("r3", "r2") "strh r7, [r4]\n" STORE_REST("r7", "r6") NEXT_STRIP);
}
#endif

#else

static inline uint32_t polynomial_entry(uint32_t block_steps) {
  (void)block_steps;
  return 0;
}

/* Both halves of a channel's strip: coefficients of the second begin where its pixels do. */
static inline void add_coefficients(uint64_t first, uint64_t second, uint32_t *sums) {
  for (int32_t i = 0; i < WORD_PIXELS + 2; i++) {
    const uint64_t mask = i == WORD_PIXELS + 1 ? UINT64_MAX : (UINT64_C(1) << FIELD) - 1; /* the last one has all that is left */
    sums[i] += (uint32_t)(first >> i * FIELD & mask);
    sums[WORD_PIXELS + i] += (uint32_t)(second >> i * FIELD & mask);
  }
}

static inline void polynomial_strips(polynomial_job *job) {
  do {
    uint32_t sums[2][COEFFICIENTS] = {{0}};
    const uint32_t *weights = job->weights;
    for (int32_t b = 0; b < job->blocks; b++) {
      uint64_t products[2][2] = {{0, 0}, {0, 0}};
      for (uint32_t i = 0; i < job->block_bytes / 8; i++, job->codes += 2, weights += 2) {
        for (int32_t k = 0; k < 4; k++) products[k / 2][k % 2] += (uint64_t)job->codes[k % 2] * weights[k / 2];
      }
      for (int32_t k = 0; k < 2; k++) add_coefficients(products[k][0], products[k][1], sums[k]);
    }
    for (int32_t k = 0; k < 2; k++) {
      polynomial_channel *ch = &job->channels[k];
      for (int32_t i = 0; i < 2; i++) sums[k][i] += ch->carried[i], ch->carried[i] = sums[k][STRIP + i];
      for (int32_t p = 0; p < STRIP; p++) {
        job->sums[k][p] = (int32_t)(sums[k][p] + (uint32_t)job->corrections[p] + (uint32_t)ch->bias);
        const uint32_t code = kn_byte(kn_scale(job->sums[k][p], ch->multiplier, job->zero));
        if (p > 0 || !job->skips_first) job->output[job->step * (size_t)p + (size_t)k] = (uint8_t)kn_clamped(code, job->low, job->above);
      }
    }
    job->skips_first = 0;
    job->corrections += STRIP;
    job->output += STRIP * job->step;
  } while (--job->strips > 0);
}

#endif
#endif
