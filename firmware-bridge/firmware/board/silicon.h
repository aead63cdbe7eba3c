/* What boards of silicon have in common and emulated ones do not: flash, a watchdog, and no need for another counter than DWT. */
#ifndef SI_SILICON_H
#define SI_SILICON_H

#include <stdint.h>

/* Erases the sector at an address, or writes 32 bytes to an erased place; both answer 0 on failure. */
int si_erase(uint32_t address);
int si_write(uint32_t address, const uint8_t bytes[32]);

#endif
