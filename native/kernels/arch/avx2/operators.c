/* Operators but convolutions, for AVX2: the same C, and one that the compiler cannot find. */
#if defined(__x86_64__) && !defined(KN_PORTABLE)
#include <immintrin.h>
#include <string.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC target("avx2")
#pragma GCC optimize("O3,no-trapping-math")
#endif

#include "../../kernels.h"

#define KN_OWN_TABLE

/*
 * 32 codes at a time: each of the 16 rows of the table answers by a shuffle for the codes that begin with it. Codes are moved down by 16
 * from row to row; a code of another row has its top bit set by the saturating addition, and shuffles to zero.
 */
static void table(const uint8_t *table, const uint8_t *input, uint8_t *output, int32_t count) {
  __m256i rows[16];
  for (int32_t r = 0; r < 16 && count >= 32; r++) rows[r] = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)(table + 16 * r)));
  int32_t i = 0;
  for (; i + 32 <= count; i += 32) {
    __m256i code = _mm256_loadu_si256((const __m256i *)(const void *)(input + i));
    __m256i result = _mm256_setzero_si256();
    for (int32_t r = 0; r < 16; r++) {
      const __m256i index = _mm256_adds_epu8(code, _mm256_set1_epi8(0x70));
      result = _mm256_or_si256(result, _mm256_shuffle_epi8(rows[r], index));
      code = _mm256_sub_epi8(code, _mm256_set1_epi8(16));
    }
    _mm256_storeu_si256((__m256i *)(void *)(output + i), result);
  }
  for (; i < count; i++) output[i] = table[input[i]];
}

#define KN_OWN_ROUND

/* Eight floats at a time; a maximum with NaN answers its second operand. */
static void round_run(const kn_quantization *q, const float *input, int32_t count, uint8_t *codes) {
  const __m256 scale = _mm256_set1_ps(q->inverse_scale), half = _mm256_set1_ps(0.5f);
  const __m256 least = _mm256_set1_ps(-1024.0f), most = _mm256_set1_ps(1024.0f);
  const __m256i zero = _mm256_set1_epi32(q->zero), low = _mm256_set1_epi32(q->low), high = _mm256_set1_epi32(q->high);
  for (int32_t i = 0; i < count; i += 8) {
    float lanes[8] = {0};
    if (count - i < 8) memcpy(lanes, input + i, (size_t)(count - i) * sizeof(float));
    const __m256 x = _mm256_add_ps(_mm256_mul_ps(_mm256_loadu_ps(count - i < 8 ? lanes : input + i), scale), half);
    const __m256 floor = _mm256_floor_ps(_mm256_min_ps(_mm256_max_ps(x, least), most));
    const __m256i code = _mm256_min_epi32(_mm256_max_epi32(_mm256_add_epi32(_mm256_cvttps_epi32(floor), zero), low), high);
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(code), _mm256_extracti128_si256(code, 1));
    uint8_t bytes[16];
    _mm_storeu_si128((__m128i *)(void *)bytes, _mm_packus_epi16(words, words));
    memcpy(codes + i, bytes, (size_t)(count - i < 8 ? count - i : 8));
  }
}

#define KN_OPERATORS kn_operators_avx2
#define KN_OPERATORS_FEATURES KN_AVX2
#include "../../operators/build.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
