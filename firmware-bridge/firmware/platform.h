/*
 * What the firmware needs of a board. One file of board/ implements it (with cortex_m.c for the processor's part); `board.h`, with the
 * sizes of memories, is made of configs/boards/NAME.toml when the firmware is built.
 */
#ifndef PF_PLATFORM_H
#define PF_PLATFORM_H

#include <stddef.h>
#include <stdint.h>

/* Starts clocks, serial line and counter; before everything else. */
void pf_start(void);

/* The next byte that the line has received, or -1. */
int32_t pf_receive(void);
/* Sleeps until there may be another one. */
void pf_wait(void);
/* Sends; returns when the line has taken everything. */
void pf_send(const uint8_t *bytes, uint32_t count);
/* Bytes that arrived while there was no room for them. */
uint32_t pf_bytes_lost(void);

/* What the counter counts (MC_COUNTER_*) and by which hardware. */
uint32_t pf_counter(void);
const char *pf_counter_source(void);
/* Interrupts are masked from start to stop. Answers 0 when the counter went around in between. */
void pf_counter_start(void);
int pf_counter_stop(uint64_t *counted);

/*
 * Storage, readable in place: two sectors for the journal, then two slots; BD_SECTOR_BYTES each and BD_SLOT_BYTES each. Offsets are from
 * its begin. Erased bytes are 0xff. Both answer 0 on failure.
 */
const uint8_t *pf_storage(void);
int pf_erase(uint32_t offset);
/* Offset and count are multiples of PF_WRITE_BYTES; the place was erased. */
int pf_write(uint32_t offset, const uint8_t *bytes, uint32_t count);
enum { PF_WRITE_BYTES = 32 };

/* An image that came with the board rather than over the line, or NULL; at most `bytes` long. */
const uint8_t *pf_preloaded(uint32_t *bytes);

/* RAM for a model: a multiple of KN_ALIGNMENT, to the end of what the board has. */
uint8_t *pf_workspace(uint32_t *bytes);

/* The most stack that was used since the start, and what there is. */
uint32_t pf_stack_used(void);
uint32_t pf_stack_bytes(void);

/* MC_START_*: why the chip started. */
uint32_t pf_last_start(void);
/* Starts the chip anew; does not return. */
void pf_reset(void);

#endif
