/*
 * Inner loops of matrix products: up to 6 rows (pixels) by two registers of columns (output channels). A step multiplies four bytes of
 * every row, broadcast, with 64 bytes of weights.
 *
 * They are assembly because compilers do not keep 12 accumulators, two weights, a broadcast and a product in the 16 registers: g++ 12
 * spills and reaches half the speed. The same loops in intrinsics stand beside them, for reading and for sanitizers.
 */
#ifndef KN_AVX2_PRODUCTS_H
#define KN_AVX2_PRODUCTS_H

#include "common.h"

/* u8 codes by s8 weights, sums of pairs kept in 16 bits: [row][2] registers of 16 lanes, channel by channel two lanes. */
KN_INLINE __m256i kn_step_short(__m256i sum, __m256i codes, __m256i weights) {
  return _mm256_add_epi16(sum, _mm256_maddubs_epi16(codes, weights));
}
/* The same, widened to 32 bits at each step. */
KN_INLINE __m256i kn_step_widening(__m256i sum, __m256i codes, __m256i weights) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, weights), _mm256_set1_epi16(1)));
}
/* s16 by s16. */
KN_INLINE __m256i kn_step_exact(__m256i sum, __m256i codes, __m256i weights) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(codes, weights));
}

#define KN_LOOP_INTRINSICS(name, step, bytes)                                                                                    \
  KN_INLINE void name(int32_t rows, int half, const void *codes, size_t stride, const void *weights, ptrdiff_t steps,            \
                      __m256i *out) {                                                                                            \
    (void)half;                                                                                                                  \
    for (int32_t r = 0; r < rows; r++) {                                                                                         \
      __m256i low = _mm256_setzero_si256(), high = low;                                                                          \
      const uint8_t *a = (const uint8_t *)codes + (size_t)r * stride, *w = weights;                                              \
      for (ptrdiff_t i = 0; i < steps; i++) {                                                                                    \
        int32_t word = 0;                                                                                                        \
        memcpy(&word, a + i * (bytes), bytes);                                                                                   \
        const __m256i v = (bytes) == 4 ? _mm256_set1_epi32(word) : _mm256_set1_epi16((int16_t)word);                             \
        low = step(low, v, kn_load(w + 64 * i));                                                                                 \
        high = step(high, v, kn_load(w + 64 * i + 32));                                                                          \
      }                                                                                                                          \
      out[2 * r] = low, out[2 * r + 1] = high;                                                                                   \
    }                                                                                                                            \
  }

/*
 * kn_loop_listed is kn_loop_short for some steps only: `offsets` says where in a row each step's codes are; its weights follow each other.
 */
#if defined(KN_SANITIZED)

KN_LOOP_INTRINSICS(kn_loop_short, kn_step_short, 4)
KN_LOOP_INTRINSICS(kn_loop_widening, kn_step_widening, 4)
KN_LOOP_INTRINSICS(kn_loop_exact, kn_step_exact, 4)
KN_LOOP_INTRINSICS(kn_loop_narrow, kn_step_short, 2)

KN_INLINE void kn_loop_listed(int32_t rows, int half, const uint8_t *codes, size_t stride, const int8_t *weights, const int32_t *offsets,
                              ptrdiff_t steps, __m256i *out) {
  for (int32_t i = 0; i < 2 * rows; i++) out[i] = _mm256_setzero_si256();
  for (ptrdiff_t n = 0; n < steps; n++) {
    __m256i part[12];
    kn_loop_short(rows, half, codes + offsets[n], stride, weights + 64 * n, 1, part);
    for (int32_t i = 0; i < 2 * rows; i++) out[i] = _mm256_add_epi16(out[i], part[i]);
  }
}

#else

/* One row of a step: `at` is the row's address; ymm12 and ymm13 hold the weights, ymm14 and ymm15 are free. */
#define KN_ROW_SHORT(at, low, high)                                                                   \
  "vpbroadcastd " at ",%%ymm14\n"                                                                     \
  "vpmaddubsw %%ymm12,%%ymm14,%%ymm15\n vpaddw %%ymm15,%%ymm" low ",%%ymm" low "\n"                   \
  "vpmaddubsw %%ymm13,%%ymm14,%%ymm14\n vpaddw %%ymm14,%%ymm" high ",%%ymm" high "\n"
#define KN_ROW_NARROW(at, low, high)                                                                  \
  "vpbroadcastw " at ",%%ymm14\n"                                                                     \
  "vpmaddubsw %%ymm12,%%ymm14,%%ymm15\n vpaddw %%ymm15,%%ymm" low ",%%ymm" low "\n"                   \
  "vpmaddubsw %%ymm13,%%ymm14,%%ymm14\n vpaddw %%ymm14,%%ymm" high ",%%ymm" high "\n"
#define KN_ROW_WIDENING(at, low, high)                                                                \
  "vpbroadcastd " at ",%%ymm14\n"                                                                     \
  "vpmaddubsw %%ymm12,%%ymm14,%%ymm15\n vpmaddwd (%[k]),%%ymm15,%%ymm15\n"                            \
  "vpmaddubsw %%ymm13,%%ymm14,%%ymm14\n vpmaddwd (%[k]),%%ymm14,%%ymm14\n"                            \
  "vpaddd %%ymm15,%%ymm" low ",%%ymm" low "\n vpaddd %%ymm14,%%ymm" high ",%%ymm" high "\n"
#define KN_ROW_EXACT(at, low, high)                                                                   \
  "vpbroadcastd " at ",%%ymm14\n"                                                                     \
  "vpmaddwd %%ymm12,%%ymm14,%%ymm15\n vpaddd %%ymm15,%%ymm" low ",%%ymm" low "\n"                     \
  "vpmaddwd %%ymm13,%%ymm14,%%ymm14\n vpaddd %%ymm14,%%ymm" high ",%%ymm" high "\n"

/* The same for panels of which only the first register has channels: the sums of the second stay zero. */
#define KN_HALF_ROW_SHORT(at, low, high)                                                              \
  "vpbroadcastd " at ",%%ymm14\n"                                                                     \
  "vpmaddubsw %%ymm12,%%ymm14,%%ymm15\n vpaddw %%ymm15,%%ymm" low ",%%ymm" low "\n"
#define KN_HALF_ROW_NARROW(at, low, high)                                                             \
  "vpbroadcastw " at ",%%ymm14\n"                                                                     \
  "vpmaddubsw %%ymm12,%%ymm14,%%ymm15\n vpaddw %%ymm15,%%ymm" low ",%%ymm" low "\n"
#define KN_HALF_ROW_WIDENING(at, low, high)                                                           \
  "vpbroadcastd " at ",%%ymm14\n"                                                                     \
  "vpmaddubsw %%ymm12,%%ymm14,%%ymm15\n vpmaddwd (%[k]),%%ymm15,%%ymm15\n"                            \
  "vpaddd %%ymm15,%%ymm" low ",%%ymm" low "\n"
#define KN_HALF_ROW_EXACT(at, low, high)                                                              \
  "vpbroadcastd " at ",%%ymm14\n"                                                                     \
  "vpmaddwd %%ymm12,%%ymm14,%%ymm15\n vpaddd %%ymm15,%%ymm" low ",%%ymm" low "\n"

/* The rows lie at a, a + l, a + 2 l, b = a + 3 l, b + l, b + 2 l. */
#define KN_ROWS_1(row, at) row(at "(%[a])", "0", "1")
#define KN_ROWS_2(row, at) KN_ROWS_1(row, at) row(at "(%[a],%[l])", "2", "3")
#define KN_ROWS_3(row, at) KN_ROWS_2(row, at) row(at "(%[a],%[l],2)", "4", "5")
#define KN_ROWS_4(row, at) KN_ROWS_3(row, at) row(at "(%[b])", "6", "7")
#define KN_ROWS_5(row, at) KN_ROWS_4(row, at) row(at "(%[b],%[l])", "8", "9")
#define KN_ROWS_6(row, at) KN_ROWS_5(row, at) row(at "(%[b],%[l],2)", "10", "11")

#define KN_ZERO(low, high) "vpxor %%xmm" low ",%%xmm" low ",%%xmm" low "\n vpxor %%xmm" high ",%%xmm" high ",%%xmm" high "\n"
#define KN_ZERO_1 KN_ZERO("0", "1")
#define KN_ZERO_2 KN_ZERO_1 KN_ZERO("2", "3")
#define KN_ZERO_3 KN_ZERO_2 KN_ZERO("4", "5")
#define KN_ZERO_4 KN_ZERO_3 KN_ZERO("6", "7")
#define KN_ZERO_5 KN_ZERO_4 KN_ZERO("8", "9")
#define KN_ZERO_6 KN_ZERO_5 KN_ZERO("10", "11")

#define KN_OUT(low, at_low, high, at_high) "vmovdqa %%ymm" low "," at_low "(%[o])\n vmovdqa %%ymm" high "," at_high "(%[o])\n"
#define KN_OUT_1 KN_OUT("0", "0", "1", "32")
#define KN_OUT_2 KN_OUT_1 KN_OUT("2", "64", "3", "96")
#define KN_OUT_3 KN_OUT_2 KN_OUT("4", "128", "5", "160")
#define KN_OUT_4 KN_OUT_3 KN_OUT("6", "192", "7", "224")
#define KN_OUT_5 KN_OUT_4 KN_OUT("8", "256", "9", "288")
#define KN_OUT_6 KN_OUT_5 KN_OUT("10", "320", "11", "352")

#define KN_STEP(rows, row, at, w_low, w_high) \
  "vmovdqa " w_low "(%[w]),%%ymm12\n vmovdqa " w_high "(%[w]),%%ymm13\n" rows(row, at)

/* `a1`, `a2`, `a3` and `a4`: bytes of a row that one to four steps consume. */
#define KN_LOOP(rows, row, zero, out, a1, a2, a3, a4)                                                                            \
  zero                                                                                                                           \
  "mov %[n],%[c]\n sub $4,%[c]\n jl 2f\n .p2align 5\n"                                                                           \
  "1:\n"                                                                                                                         \
  KN_STEP(rows, row, "0", "0", "32") KN_STEP(rows, row, a1, "64", "96")                                                          \
  KN_STEP(rows, row, a2, "128", "160") KN_STEP(rows, row, a3, "192", "224")                                                      \
  "add $256,%[w]\n add $" a4 ",%[a]\n add $" a4 ",%[b]\n sub $4,%[c]\n jge 1b\n"                                                 \
  "2:\n add $4,%[c]\n jz 4f\n"                                                                                                   \
  "3:\n"                                                                                                                         \
  KN_STEP(rows, row, "0", "0", "32")                                                                                             \
  "add $64,%[w]\n add $" a1 ",%[a]\n add $" a1 ",%[b]\n dec %[c]\n jnz 3b\n"                                                     \
  "4:\n" out

/* `constants` are at k; x is free. */
#define KN_ASM(constants, text)                                                                                                  \
  __asm__ volatile(text                                                                                                          \
                   : [a] "+r"(a), [b] "+r"(b), [w] "+r"(w), [c] "=&r"(count), [x] "=&r"(free)                                    \
                   : [l] "r"(stride), [n] "r"(steps), [o] "r"(out), [k] "r"(constants)                                           \
                   : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",  \
                     "xmm13", "xmm14", "xmm15", "memory", "cc")

static const int16_t kn_ones[16] __attribute__((aligned(32), unused)) = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

/*
 * kn_loop_NAME(rows, half, codes, stride, weights, steps, out): out[2 * row] and out[2 * row + 1] are the row's sums; weights are aligned
 * to 32 bytes; `half`: only the first register of weights has any. For a constant number of rows and half: KN_FOR_ROWS.
 */
#define KN_LOOPS(name, row, constants, a1, a2, a3, a4)                                                                           \
  KN_INLINE void name(int32_t rows, const void *codes, size_t stride, const void *weights, ptrdiff_t steps, __m256i *out) {      \
    const uint8_t *a = codes, *b = a + 3 * stride, *w = weights;                                                                 \
    ptrdiff_t count, free;                                                                                                       \
    switch (rows) {                                                                                                              \
      case 1: KN_ASM(constants, KN_LOOP(KN_ROWS_1, row, KN_ZERO_1, KN_OUT_1, a1, a2, a3, a4)); break;                            \
      case 2: KN_ASM(constants, KN_LOOP(KN_ROWS_2, row, KN_ZERO_2, KN_OUT_2, a1, a2, a3, a4)); break;                            \
      case 3: KN_ASM(constants, KN_LOOP(KN_ROWS_3, row, KN_ZERO_3, KN_OUT_3, a1, a2, a3, a4)); break;                            \
      case 4: KN_ASM(constants, KN_LOOP(KN_ROWS_4, row, KN_ZERO_4, KN_OUT_4, a1, a2, a3, a4)); break;                            \
      case 5: KN_ASM(constants, KN_LOOP(KN_ROWS_5, row, KN_ZERO_5, KN_OUT_5, a1, a2, a3, a4)); break;                            \
      default: KN_ASM(constants, KN_LOOP(KN_ROWS_6, row, KN_ZERO_6, KN_OUT_6, a1, a2, a3, a4));                                  \
    }                                                                                                                            \
  }

KN_LOOPS(kn_whole_loop_short, KN_ROW_SHORT, kn_ones, "4", "8", "12", "16")
KN_LOOPS(kn_whole_loop_widening, KN_ROW_WIDENING, kn_ones, "4", "8", "12", "16")
KN_LOOPS(kn_whole_loop_exact, KN_ROW_EXACT, kn_ones, "4", "8", "12", "16")
KN_LOOPS(kn_whole_loop_narrow, KN_ROW_NARROW, kn_ones, "2", "4", "6", "8")
KN_LOOPS(kn_half_loop_short, KN_HALF_ROW_SHORT, kn_ones, "4", "8", "12", "16")
KN_LOOPS(kn_half_loop_widening, KN_HALF_ROW_WIDENING, kn_ones, "4", "8", "12", "16")
KN_LOOPS(kn_half_loop_exact, KN_HALF_ROW_EXACT, kn_ones, "4", "8", "12", "16")
KN_LOOPS(kn_half_loop_narrow, KN_HALF_ROW_NARROW, kn_ones, "2", "4", "6", "8")

#define KN_LISTED(rows, row, zero, out)                                                                                          \
  zero                                                                                                                           \
  "1:\n movslq (%[f]),%[a]\n lea (%[b0],%[a]),%[b]\n add %[a0],%[a]\n"                                                           \
  KN_STEP(rows, row, "0", "0", "32")                                                                                             \
  "add $64,%[w]\n add $4,%[f]\n dec %[c]\n jnz 1b\n" out
#define KN_ASM_LISTED(text)                                                                                                      \
  __asm__ volatile(text                                                                                                          \
                   : [a] "=&r"(a), [b] "=&r"(b), [w] "+r"(weights), [f] "+r"(offsets), [c] "+r"(steps)                           \
                   : [l] "r"(stride), [a0] "r"(codes), [b0] "r"(codes + 3 * stride), [o] "r"(out)                                \
                   : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",  \
                     "xmm13", "xmm14", "xmm15", "memory", "cc")

/* At least one step. */
KN_INLINE void kn_loop_listed(int32_t rows, int half, const uint8_t *codes, size_t stride, const int8_t *weights, const int32_t *offsets,
                              ptrdiff_t steps, __m256i *out) {
  const uint8_t *a, *b;
  (void)half;
  switch (rows) {
    case 1: KN_ASM_LISTED(KN_LISTED(KN_ROWS_1, KN_ROW_SHORT, KN_ZERO_1, KN_OUT_1)); break;
    case 2: KN_ASM_LISTED(KN_LISTED(KN_ROWS_2, KN_ROW_SHORT, KN_ZERO_2, KN_OUT_2)); break;
    case 3: KN_ASM_LISTED(KN_LISTED(KN_ROWS_3, KN_ROW_SHORT, KN_ZERO_3, KN_OUT_3)); break;
    case 4: KN_ASM_LISTED(KN_LISTED(KN_ROWS_4, KN_ROW_SHORT, KN_ZERO_4, KN_OUT_4)); break;
    case 5: KN_ASM_LISTED(KN_LISTED(KN_ROWS_5, KN_ROW_SHORT, KN_ZERO_5, KN_OUT_5)); break;
    default: KN_ASM_LISTED(KN_LISTED(KN_ROWS_6, KN_ROW_SHORT, KN_ZERO_6, KN_OUT_6));
  }
}

#define KN_CHOOSE_LOOP(name)                                                                                                     \
  KN_INLINE void kn_loop_##name(int32_t rows, int half, const void *codes, size_t stride, const void *weights, ptrdiff_t steps,  \
                                __m256i *out) {                                                                                  \
    if (half) kn_half_loop_##name(rows, codes, stride, weights, steps, out);                                                     \
    else kn_whole_loop_##name(rows, codes, stride, weights, steps, out);                                                         \
  }

KN_CHOOSE_LOOP(short)
KN_CHOOSE_LOOP(widening)
KN_CHOOSE_LOOP(exact)
KN_CHOOSE_LOOP(narrow)

#endif
/* Calls function(rows, half, ...) with constants for both, so that it is inlined and its arrays become registers. */
#define KN_FOR_ROWS(rows, half, function, ...)                 \
  switch ((rows) + ((half) ? 8 : 0)) {                         \
    case 1: function(1, 0, __VA_ARGS__); break;                \
    case 2: function(2, 0, __VA_ARGS__); break;                \
    case 3: function(3, 0, __VA_ARGS__); break;                \
    case 4: function(4, 0, __VA_ARGS__); break;                \
    case 5: function(5, 0, __VA_ARGS__); break;                \
    case 6: function(6, 0, __VA_ARGS__); break;                \
    case 9: function(1, 1, __VA_ARGS__); break;                \
    case 10: function(2, 1, __VA_ARGS__); break;               \
    case 11: function(3, 1, __VA_ARGS__); break;               \
    case 12: function(4, 1, __VA_ARGS__); break;               \
    case 13: function(5, 1, __VA_ARGS__); break;               \
    default: function(6, 1, __VA_ARGS__);                      \
  }

#endif
