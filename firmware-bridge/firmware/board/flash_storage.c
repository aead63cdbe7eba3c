/* Storage in the flash of a chip; no image comes with these boards. */
#include "../platform.h"
#include "board.h"
#include "silicon.h"

const uint8_t *pf_storage(void) { return (const uint8_t *)BD_STORAGE_ORIGIN; }

int pf_erase(uint32_t offset) { return si_erase(BD_STORAGE_ORIGIN + offset); }

int pf_write(uint32_t offset, const uint8_t *bytes, uint32_t count) {
  for (uint32_t at = 0; at < count; at += PF_WRITE_BYTES)
    if (!si_write(BD_STORAGE_ORIGIN + offset + at, bytes + at)) return 0;
  return 1;
}

const uint8_t *pf_preloaded(uint32_t *bytes) {
  *bytes = 0;
  return NULL;
}
