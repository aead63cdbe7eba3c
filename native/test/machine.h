/* Instruction sets of this machine, as the programs here need them. */
#ifndef MACHINE_H
#define MACHINE_H

#include "../kernels/kernels.h"
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

static inline uint32_t machine_features(void) {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2") ? KN_AVX2 : 0;
#elif defined(__aarch64__)
  return KN_NEON | ((getauxval(AT_HWCAP) & (1ul << 20)) != 0 ? KN_DOTPROD : 0); /* HWCAP_ASIMDDP */
#else
  return 0;
#endif
}

#endif
