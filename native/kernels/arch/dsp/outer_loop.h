/*
 * The loop of the outer-product kernels: some pixels by four output channels, four multiplications a step, then from the products to codes.
 * BITS says how many pixels; see outer.h. Packed weights wait in floating-point registers, for want of others.
 */
#ifndef KN_DSP_OUTER_LOOP_H
#define KN_DSP_OUTER_LOOP_H

#include "store.h"

#if BITS == 4
enum { FIELD = 14, WORD_PIXELS = 2, WORD_STEPS = 2 };
#else
enum { FIELD = 10, WORD_PIXELS = 3, WORD_STEPS = 4 };
#endif
/* Pixels at a time: two words; output channels at a time; steps that come and go together. */
enum { PIXELS = 2 * WORD_PIXELS, QUAD = 4, STEPS = 4 };

/*
 * The output channels of some pixels, four at a time. Codes go to `output` in any case, accumulators to `sums`. What is marked so advances.
 * The assembly knows the order.
 */
typedef struct {
  const uint32_t *codes;              /* two words a step */
  const uint32_t *weights;            /* advances; a word for WORD_STEPS steps */
  uint32_t block_bytes, all_bytes;    /* of codes: added up in fields; of all blocks */
  uint32_t entry;                     /* where the body of the loop is entered */
  int32_t blocks;
  uint8_t *output;                    /* advances; the codes of four channels lie side by side */
  size_t step;                        /* from one pixel of the output to the next */
  const int32_t *bias, *multipliers;  /* advance */
  int32_t multiplier_shift, zero;
  uint32_t low, above;                /* as in kn_finish */
  int32_t quads;                      /* counts down to 0 */
  uint32_t *raw;                      /* eight words for each block */
  uint32_t back_bytes;                /* of weights, that the loop begins to load before their start */
  const uint8_t *shifts;              /* advance; they and the other are as in kn_finish */
  int32_t more_shift;
  int32_t offsets[6];                 /* of each pixel, added to its sums */
  int32_t sums[QUAD][PIXELS];
} outer_job;

/* Bytes in front of packed weights that may be read. */
enum { FRONT_BYTES = 32 };

#if KN_DSP_CODE && defined(__ARM_FP)

/* Steps of a round of the loop; bytes of code for STEPS steps. */
enum { OUTER_ROUND = 16, OUTER_CODE_BYTES = BITS == 4 ? 2 * 15 * 4 : 29 * 4 };

static inline uint32_t left_out(uint32_t block_steps) { return -block_steps & (OUTER_ROUND - 1); }

/* The lowest bit says that this is Thumb code. */
static inline void outer_enter(outer_job *job) {
  const uint32_t steps = left_out(job->block_bytes / 8);
  job->entry = steps / STEPS * OUTER_CODE_BYTES + 1;
  job->back_bytes = steps / WORD_STEPS * 4;
}

_Static_assert(offsetof(outer_job, output) == 24 && offsetof(outer_job, bias) == 32 && offsetof(outer_job, multiplier_shift) == 40 &&
                   offsetof(outer_job, low) == 48 && offsetof(outer_job, quads) == 56 && offsetof(outer_job, back_bytes) == 64 &&
                   offsetof(outer_job, shifts) == 68 && offsetof(outer_job, offsets) == 76 && offsetof(outer_job, sums) == 100,
               "the assembly has these offsets as numbers");

/* A pair of channels' weights out of a word, by both words of codes. */
#define FIRST_PAIR(TURN) "and.w r3, r1, r2, ror #" TURN "\n umlal r4, r5, r12, r3\n umlal r6, r7, lr, r3\n"
#define OTHER_PAIR(TURN) "and.w r3, r1, r2, ror #" TURN "\n umlal r8, r9, r12, r3\n umlal r10, r11, lr, r3\n"
#define STEP(FIRST, OTHER) "ldrd r12, lr, [r0], #8\n" FIRST_PAIR(FIRST) OTHER_PAIR(OTHER)
#if BITS == 4
#define MASK "movw r1, #0x000F\n movt r1, #0xF000\n"
#define LOAD_WORDS "vldmia r2!, {s0-s7}\n"
#define WORD(REGISTER) "vmov r2, " REGISTER "\n and.w r3, r1, r2\n" STEP_UNTURNED("8") STEP("16", "24")
#define ROUND_BODY WORD("s0") WORD("s1") WORD("s2") WORD("s3") WORD("s4") WORD("s5") WORD("s6") WORD("s7")
#else
#define MASK "movw r1, #0x0003\n movt r1, #0xC000\n"
#define LOAD_WORDS "vldmia r2!, {s0-s3}\n"
#define WORD(REGISTER) "vmov r2, " REGISTER "\n and.w r3, r1, r2\n" STEP_UNTURNED("4") STEP("8", "12") STEP("16", "20") STEP("24", "28")
#define ROUND_BODY WORD("s0") WORD("s1") WORD("s2") WORD("s3")
#endif
#define STEP_UNTURNED(OTHER) "ldrd r12, lr, [r0], #8\n umlal r4, r5, r12, r3\n umlal r6, r7, lr, r3\n" OTHER_PAIR(OTHER)

/* On the stack: the job, where sums go, the end of all codes; then a word of codes for each pixel. */
#define PRODUCTS                                                                                                             \
  "push {r4-r11, lr}\n sub sp, #36\n str r0, [sp]\n"                                                                         \
  "0: ldr r2, [sp]\n ldr r3, [r2, #60]\n str r3, [sp, #4]\n ldr r0, [r2]\n ldr r3, [r2, #12]\n add r3, r0\n str r3, [sp, #8]\n" \
  "2: ldr r12, [sp]\n ldr r3, [r12, #64]\n ldr r2, [r12, #4]\n subs r2, r2, r3\n" LOAD_WORDS "vmov s12, r2\n"                \
  "ldr r2, [r12, #8]\n add r2, r0\n vmov s13, r2\n" MASK                                                                     \
  "movs r4, #0\n movs r5, #0\n movs r6, #0\n movs r7, #0\n mov r8, r4\n mov r9, r4\n mov r10, r4\n mov r11, r4\n"            \
  "ldr r2, [r12, #16]\n adr r3, 1f\n add r2, r3\n bx r2\n"                                                                   \
  "3: vmov r2, s12\n" LOAD_WORDS "vmov s12, r2\n .balign 4\n"                                                                \
  "1:\n" ROUND_BODY "vmov r3, s13\n cmp r0, r3\n bne 3b\n"                                                                   \
  "vmov r1, s12\n ldr r12, [sp]\n str r1, [r12, #4]\n ldr r3, [sp, #4]\n stm r3!, {r4-r11}\n str r3, [sp, #4]\n"             \
  "ldr r2, [sp, #8]\n cmp r0, r2\n bne 2b\n ldr r0, [sp]\n"

#if BITS == 4
/* Adds the fields of one word of codes, of an earlier block, to those of the pair's first channel (A, B) and of its second (C, D). */
#define ADD_FIELDS(RAW, A, B, C, D)                                                                                        \
  "ldrd r2, r3, [r1, #" RAW "]\n ubfx r12, r2, #0, #14\n add " A ", r12\n ubfx r12, r2, #14, #14\n add " B ", r12\n"      \
  "lsr r12, r2, #28\n bfi r12, r3, #4, #10\n add " C ", r12\n add " D ", " D ", r3, lsr #10\n"
#define CODE(SUM, MULTIPLIER) "smmlar " SUM ", " SUM ", " MULTIPLIER ", r12\n usat " SUM ", #8, " SUM "\n"
#define SHIFT(A, B, C, D) "ldrb r12, [r1], #1\n add r12, lr\n lsl " A ", r12\n lsl " B ", r12\n lsl " C ", r12\n lsl " D ", r12\n"
/*
 * A pair of channels, whose products of the last block are in r4 to r7: four pixels of the first in r8 to r11, of the second in r4 to r7, from
 * sums to codes, both channels of a pixel in one half word. RAW: the pair's words in `raw`; SUMS: in `sums`.
 */
#define PAIR(RAW, SUMS)                                                                                                    \
  "ubfx r8, r4, #0, #14\n ubfx r9, r4, #14, #14\n ubfx r10, r6, #0, #14\n ubfx r11, r6, #14, #14\n"                        \
  "lsr r4, r4, #28\n bfi r4, r5, #4, #10\n lsr r5, r5, #10\n lsr r6, r6, #28\n bfi r6, r7, #4, #10\n lsr r7, r7, #10\n"    \
  "ldr lr, [r0, #20]\n subs lr, #1\n beq 5f\n ldr r1, [r0, #60]\n"                                                        \
  "4: " ADD_FIELDS(RAW, "r8", "r9", "r4", "r5") ADD_FIELDS(RAW " + 8", "r10", "r11", "r6", "r7")                           \
  "adds r1, #32\n subs lr, #1\n bne 4b\n"                                                                                 \
  "5: add r1, r0, #76\n ldm r1, {r1, r2, r3, r12}\n"                                                                       \
  "add r8, r1\n add r9, r2\n add r10, r3\n add r11, r12\n add r4, r1\n add r5, r2\n add r6, r3\n add r7, r12\n"          \
  "ldr r1, [r0, #32]\n ldrd r2, r3, [r1], #8\n str r1, [r0, #32]\n"                                                       \
  "add r8, r2\n add r9, r2\n add r10, r2\n add r11, r2\n add r4, r3\n add r5, r3\n add r6, r3\n add r7, r3\n"            \
  "add r1, r0, #" SUMS "\n stm r1!, {r8-r11}\n stm r1, {r4-r7}\n"                                                         \
  "ldr r1, [r0, #36]\n ldrd r2, r3, [r1], #8\n str r1, [r0, #36]\n ldrd r1, r12, [r0, #40]\n lsls r2, r1\n lsls r3, r1\n" \
  "ldrd r1, lr, [r0, #68]\n cbz r1, 8f\n" SHIFT("r8", "r9", "r10", "r11") SHIFT("r4", "r5", "r6", "r7")                   \
  "str r1, [r0, #68]\n ldr r12, [r0, #44]\n 8:\n"                                                                         \
  CODE("r8", "r2") CODE("r9", "r2") CODE("r10", "r2") CODE("r11", "r2")                                                    \
  CODE("r4", "r3") CODE("r5", "r3") CODE("r6", "r3") CODE("r7", "r3")                                                      \
  "orr r4, r8, r4, lsl #8\n orr r5, r9, r5, lsl #8\n orr r6, r10, r6, lsl #8\n orr r7, r11, r7, lsl #8\n"
#define CLAMP(CODES)                                                                        \
  "uqsub8 " CODES ", " CODES ", r10\n uqadd8 " CODES ", " CODES ", r10\n"                   \
  "uqadd8 " CODES ", " CODES ", r11\n uqsub8 " CODES ", " CODES ", r11\n"

/* The other pair's products wait in s8 to s11, and what became of the first pair in s12 to s15. */
KN_ASSEMBLY void outer_channels(outer_job *job) {
  __asm__ volatile(PRODUCTS "vmov s8, s9, r8, r9\n vmov s10, s11, r10, r11\n" PAIR("0", "100")
                   "vmov s12, s13, r4, r5\n vmov s14, s15, r6, r7\n vmov r4, r5, s8, s9\n vmov r6, r7, s10, s11\n" PAIR("16", "132")
                   "vmov r8, r9, s12, s13\n vmov r10, r11, s14, s15\n"
                   "orr r4, r8, r4, lsl #16\n orr r5, r9, r5, lsl #16\n orr r6, r10, r6, lsl #16\n orr r7, r11, r7, lsl #16\n"
                   "ldrd r10, r11, [r0, #48]\n orrs r1, r10, r11\n beq 6f\n" CLAMP("r4") CLAMP("r5") CLAMP("r6") CLAMP("r7")
                   "6: ldrd r8, r9, [r0, #24]\n str r4, [r8]\n str r5, [r8, r9]\n str r6, [r8, r9, lsl #1]\n add r1, r8, r9\n"
                   "str r7, [r1, r9, lsl #1]\n add r8, r8, #4\n str r8, [r0, #24]\n"
                   "ldr r1, [r0, #56]\n subs r1, #1\n str r1, [r0, #56]\n bne 0b\n add sp, #36\n pop {r4-r11, pc}\n");
}
#else
/* One channel of a pair: fields of its pixels from r2 on. RAW and NEXT: the pair's words in `raw`, and those of the next block. */
#define FIELDS(RAW, NEXT, FIRST, MORE, LOOP, END)                                                           \
  "ldr r1, [r0, #60]\n ldrd r8, r9, [r1, #" RAW "]\n ldrd r10, r11, [r1, #" RAW " + 8]\n" FIRST             \
  "ldr lr, [r0, #20]\n subs lr, #1\n beq " END "f\n"                                                        \
  LOOP ": ldrd r8, r9, [r1, #" NEXT "]\n ldrd r10, r11, [r1, #" NEXT " + 8]\n adds r1, #32\n" MORE          \
  "subs lr, #1\n bne " LOOP "b\n" END ":\n"
#define CODE(SUM) "smmlar " SUM ", " SUM ", r8, r9\n usat " SUM ", #8, " SUM "\n"
#define CLAMP(CODES)                                                                        \
  "uqsub8 " CODES ", " CODES ", r10\n uqadd8 " CODES ", " CODES ", r10\n"                   \
  "uqadd8 " CODES ", " CODES ", r11\n uqsub8 " CODES ", " CODES ", r11\n"
/* Keeps a channel's sums and shifts them; its multiplier in r8, the zero point in r9. N4 is four times the channel. */
#define SCALE_BEGIN(N4, SUMS, LIST, SHIFT)                                                                                    \
  "add r1, r0, #" SUMS "\n stm r1, {" LIST "}\n ldr r1, [r0, #36]\n ldr r8, [r1, #" N4 "]\n ldr r9, [r0, #40]\n lsl r8, r8, r9\n" \
  "ldr r1, [r0, #" SHIFTS "]\n cbz r1, 8f\n ldrb r9, [r1], #1\n str r1, [r0, #" SHIFTS "]\n"                                 \
  "ldr r10, [r0, #" SHIFTS " + 4]\n add r9, r10\n" SHIFT                                                                    \
  "8: ldr r9, [r0, #44]\n"
#define NEXT_QUAD                                                                                                             \
  "ldr r1, [r0, #32]\n adds r1, #16\n str r1, [r0, #32]\n ldr r1, [r0, #36]\n adds r1, #16\n str r1, [r0, #36]\n"             \
  "ldr r1, [r0, #24]\n adds r1, #4\n str r1, [r0, #24]\n"                                                                     \
  "ldr r1, [r0, #56]\n subs r1, #1\n str r1, [r0, #56]\n bne 0b\n add sp, #36\n pop {r4-r11, pc}\n"
#define SHIFTS "68"
#define FIRST_0                                                                                    \
  "ubfx r2, r8, #0, #10\n ubfx r3, r8, #10, #10\n ubfx r4, r8, #20, #10\n"                         \
  "ubfx r5, r10, #0, #10\n ubfx r6, r10, #10, #10\n ubfx r7, r10, #20, #10\n"
#define MORE_0                                                                                                         \
  "ubfx r12, r8, #0, #10\n add r2, r12\n ubfx r12, r8, #10, #10\n add r3, r12\n ubfx r12, r8, #20, #10\n add r4, r12\n"    \
  "ubfx r12, r10, #0, #10\n add r5, r12\n ubfx r12, r10, #10, #10\n add r6, r12\n ubfx r12, r10, #20, #10\n add r7, r12\n"
#define FIRST_1                                                                                    \
  "lsr r2, r8, #30\n bfi r2, r9, #2, #8\n ubfx r3, r9, #8, #10\n lsr r4, r9, #18\n"                \
  "lsr r5, r10, #30\n bfi r5, r11, #2, #8\n ubfx r6, r11, #8, #10\n lsr r7, r11, #18\n"
#define MORE_1                                                                                                                  \
  "lsr r12, r8, #30\n bfi r12, r9, #2, #8\n add r2, r12\n ubfx r12, r9, #8, #10\n add r3, r12\n add r4, r4, r9, lsr #18\n"      \
  "lsr r12, r10, #30\n bfi r12, r11, #2, #8\n add r5, r12\n ubfx r12, r11, #8, #10\n add r6, r12\n add r7, r7, r11, lsr #18\n"
#define SCALE(N4, SUMS)                                                                                                       \
  "add r1, r0, #76\n ldm r1, {r8-r12, lr}\n add r2, r8\n add r3, r9\n add r4, r10\n add r5, r11\n add r6, r12\n add r7, lr\n"   \
  "ldr r1, [r0, #32]\n ldr r8, [r1, #" N4 "]\n add r2, r8\n add r3, r8\n add r4, r8\n add r5, r8\n add r6, r8\n add r7, r8\n"   \
  SCALE_BEGIN(N4, SUMS, "r2-r7", "lsl r2, r9\n lsl r3, r9\n lsl r4, r9\n lsl r5, r9\n lsl r6, r9\n lsl r7, r9\n")             \
  CODE("r2") CODE("r3") CODE("r4") CODE("r5") CODE("r6") CODE("r7")
#define KEEP "add r1, sp, #12\n stm r1, {r2-r7}\n"
#define JOIN(BY)                                                                                                       \
  "add r1, sp, #12\n ldm r1, {r8-r12, lr}\n orr r2, r8, r2, lsl #" BY "\n orr r3, r9, r3, lsl #" BY "\n"               \
  "orr r4, r10, r4, lsl #" BY "\n orr r5, r11, r5, lsl #" BY "\n orr r6, r12, r6, lsl #" BY "\n orr r7, lr, r7, lsl #" BY "\n"

KN_ASSEMBLY void outer_channels(outer_job *job) {
  __asm__ volatile(PRODUCTS FIELDS("0", "32", FIRST_0, MORE_0, "4", "5") SCALE("0", "100") KEEP
                   FIELDS("0", "32", FIRST_1, MORE_1, "4", "5") SCALE("4", "124") JOIN("8") KEEP
                   FIELDS("16", "48", FIRST_0, MORE_0, "4", "5") SCALE("8", "148") JOIN("16") KEEP
                   FIELDS("16", "48", FIRST_1, MORE_1, "4", "5") SCALE("12", "172") JOIN("24")
                   "ldrd r10, r11, [r0, #48]\n orrs r1, r10, r11\n beq 6f\n" CLAMP("r2") CLAMP("r3") CLAMP("r4") CLAMP("r5") CLAMP("r6") CLAMP("r7")
                   "6: ldrd r8, r9, [r0, #24]\n str r2, [r8]\n str r3, [r8, r9]\n str r4, [r8, r9, lsl #1]\n add r8, r9\n"
                   "str r5, [r8, r9, lsl #1]\n add r8, r8, r9, lsl #1\n str r6, [r8, r9]\n str r7, [r8, r9, lsl #1]\n" NEXT_QUAD);
}
#endif

#else

static inline void outer_enter(outer_job *job) { job->entry = job->back_bytes = 0; }

/* The weights of a pair of channels for one step. */
static inline uint32_t weights_of(const uint32_t *weights, uint32_t step, int32_t pair) {
  const uint32_t top = (1u << BITS) - 1;
  const int32_t turn = (int32_t)(step % WORD_STEPS) * 4 * BITS + pair * 2 * BITS;
  return kn_rotated(weights[step / WORD_STEPS], turn) & (top | top << (32 - BITS));
}

static inline void outer_channels(outer_job *job) {
  const uint32_t steps = job->block_bytes / 8, mask = (1u << FIELD) - 1;
  do {
    const uint32_t *codes = job->codes;
    for (int32_t i = 0; i < QUAD * PIXELS; i++) job->sums[i / PIXELS][i % PIXELS] = job->offsets[i % PIXELS];
    for (int32_t b = 0; b < job->blocks; b++, job->weights += steps / WORD_STEPS) {
      uint64_t products[2][2] = {{0, 0}, {0, 0}};
      for (uint32_t i = 0; i < steps; i++, codes += 2) {
        for (int32_t k = 0; k < 4; k++) products[k / 2][k % 2] += (uint64_t)codes[k % 2] * weights_of(job->weights, i, k / 2);
      }
      for (int32_t k = 0; k < QUAD * PIXELS; k++) {
        const int32_t o = k / PIXELS, p = k % PIXELS, field = o % 2 * WORD_PIXELS + p % WORD_PIXELS;
        const uint64_t product = products[o / 2][p / WORD_PIXELS] >> field * FIELD;
        const uint32_t sum = field == 2 * WORD_PIXELS - 1 ? (uint32_t)product : (uint32_t)product & mask;
        job->sums[o][p] = kn_wrapping_add(job->sums[o][p], (int32_t)sum);
      }
    }
    for (int32_t k = 0; k < QUAD * PIXELS; k++) {
      const int32_t o = k / PIXELS, p = k % PIXELS, multiplier = (int32_t)((uint32_t)job->multipliers[o] << job->multiplier_shift);
      const int32_t shift = job->shifts == NULL ? 0 : job->shifts[o] + job->more_shift;
      job->sums[o][p] = kn_wrapping_add(job->sums[o][p], job->bias[o]);
      const uint32_t code = kn_byte(kn_scale(kn_shifted(job->sums[o][p], shift), multiplier, job->zero));
      job->output[job->step * (size_t)p + (size_t)o] = (uint8_t)kn_clamped(code, job->low, job->above);
    }
    job->output += QUAD;
    job->bias += QUAD;
    job->multipliers += QUAD;
    if (job->shifts != NULL) job->shifts += QUAD;
  } while (--job->quads > 0);
}

#endif
#endif
