/* SHA-256 (FIPS 180-4) of bytes that lie in memory. */
#ifndef SH_SHA256_H
#define SH_SHA256_H

#include <stdint.h>

void sh_sha256(const uint8_t *bytes, uint32_t count, uint8_t hash[32]);

#endif
