/* Everything but convolutions, for any machine: the reference. */
#define KN_OPERATORS kn_operators_portable
#define KN_OPERATORS_FEATURES 0
#include "operators/build.h"

#if defined(__x86_64__) && !defined(KN_PORTABLE)
extern const kn_operators kn_operators_avx2;
#endif

const kn_operators *kn_operators_for(uint32_t features) {
#if defined(__x86_64__) && !defined(KN_PORTABLE)
  if ((features & KN_AVX2) != 0) return &kn_operators_avx2;
#endif
  (void)features;
  return &kn_operators_portable;
}
