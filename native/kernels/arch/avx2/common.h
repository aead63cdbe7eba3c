/*
 * What the AVX2 kernels share. Each function carries the instruction set itself, so that no compiler flag decides what runs, and the
 * engine calls a kernel only on a machine that has its features.
 */
#ifndef KN_AVX2_COMMON_H
#define KN_AVX2_COMMON_H

#include <immintrin.h>

#include "../../shared/base.h"

#define KN_CODE __attribute__((target("avx2")))
#define KN_INLINE static inline __attribute__((always_inline, target("avx2"), unused))
#define KN_OUTLINE static __attribute__((noinline, target("avx2"), unused))
KN_INLINE __m256i kn_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
KN_INLINE void kn_save(void *p, __m256i v) { _mm256_storeu_si256((__m256i *)p, v); }
KN_INLINE __m128i kn_load_half(const void *p) { return _mm_loadu_si128((const __m128i *)p); }
KN_INLINE void kn_save_half(void *p, __m128i v) { _mm_storeu_si128((__m128i *)p, v); }

#endif
