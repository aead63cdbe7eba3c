/*
 * Slots for images, and which of them is active. Two slots are written over the line; a third holds what came with the board. Which slots
 * are sealed and which is active is in a journal of two sectors that are written in turn, so that a power cut at any moment leaves the
 * state before or the state after.
 */
#ifndef ST_STORE_H
#define ST_STORE_H

#include <stdint.h>

#include "protocol.h"

enum { ST_WRITABLE = MC_PRELOADED_SLOT, ST_PRELOADED = MC_PRELOADED_SLOT, ST_SLOTS = MC_PRELOADED_SLOT + 1 };

/* As it lies in the journal; a multiple of PF_WRITE_BYTES. */
typedef struct {
  uint32_t magic, sequence;
  uint32_t active, previous; /* MC_NO_SLOT: none */
  uint32_t is_on_trial;
  uint32_t bytes[ST_WRITABLE]; /* of sealed images; 0: not sealed */
  uint8_t sha256[ST_WRITABLE][32];
  uint32_t checksum;
} st_record;
_Static_assert(sizeof(st_record) % 32 == 0, "written as it is");

typedef struct {
  const uint8_t *image;
  const uint8_t *sha256; /* NULL: to be computed */
  uint32_t capacity;
  uint32_t bytes; /* 0: not sealed */
  uint8_t is_writable;
} st_slot;

/* Reads the journal. An activation that was never confirmed ends here. */
void st_start(void);
/* Whether st_start ended one. */
int st_has_reverted(void);
const st_record *st_journal(void);

/* `index` is below ST_SLOTS. */
void st_look(uint32_t index, st_slot *slot);
/* Zeros where the slot is not sealed. */
void st_hash(const st_slot *slot, uint8_t hash[32]);

/* All of these answer an MC_STATUS_*; `detail` is that of the protocol. */
uint32_t st_open(uint32_t index);
uint32_t st_erase(uint32_t index, uint32_t offset);
uint32_t st_write(uint32_t index, uint32_t offset, const uint8_t *bytes, uint32_t count, uint32_t *detail);
uint32_t st_seal(uint32_t index, uint32_t bytes, const uint8_t sha256[32], uint32_t *detail);
/* The slot is sealed. */
uint32_t st_activate(uint32_t index);
uint32_t st_confirm(void);
uint32_t st_revert(void);

#endif
