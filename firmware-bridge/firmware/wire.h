/*
 * Frames over the line (configs/contracts/mcu.ts): COBS between zero bytes, CRC-32 at the end. Whatever arrives, a frame is taken whole and
 * undamaged or not at all, a request is executed once, and its reply is repeated when it is asked for again.
 */
#ifndef WI_WIRE_H
#define WI_WIRE_H

#include <stdint.h>

typedef struct {
  uint32_t received, damaged, repeated, stale;
} wi_counts;

/* Takes one byte from the line; where it ends a frame, the frame is answered. */
void wi_take(uint8_t byte);

const wi_counts *wi_statistics(void);

#endif
