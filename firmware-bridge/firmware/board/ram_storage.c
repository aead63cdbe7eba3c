/* Storage in plain memory, for boards whose emulator has no flash controller: it survives a reset, not a power cut. */
#include <string.h>

#include "../platform.h"
#include "board.h"

static uint8_t *const storage = (uint8_t *)BD_STORAGE_ORIGIN;

const uint8_t *pf_storage(void) { return storage; }

int pf_erase(uint32_t offset) {
  memset(storage + offset, 0xff, BD_SECTOR_BYTES);
  return 1;
}

int pf_write(uint32_t offset, const uint8_t *bytes, uint32_t count) {
  memcpy(storage + offset, bytes, count);
  return 1;
}

const uint8_t *pf_preloaded(uint32_t *bytes) {
  *bytes = BD_PRELOADED_BYTES;
  return (const uint8_t *)BD_PRELOADED_ORIGIN;
}
