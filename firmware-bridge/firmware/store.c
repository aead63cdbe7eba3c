/*
 * INVARIANTS
 * 1. A slot is erased or written only while the journal says that it is not sealed.
 * 2. The active slot, and the one that a trial goes back to, are never opened.
 * 3. A journal record is written to the sector of the older one, and counts only when its checksum is right.
 */
#include "store.h"

#include <string.h>

#include "../../native/engine/engine.h"
#include "../../native/engine/image.h"
#include "board.h"
#include "platform.h"
#include "protocol.h"
#include "sha256.h"

#define MAGIC 0x4c4e524au
#define FIRST_SLOT (2u * BD_SECTOR_BYTES)

_Static_assert(BD_SLOT_BYTES % BD_SECTOR_BYTES == 0 && BD_SECTOR_BYTES % PF_WRITE_BYTES == 0, "slots are of whole sectors");

static st_record journal;
static int has_reverted;

static uint32_t checksum_of(const st_record *record) { return en_crc32((const uint8_t *)record, sizeof(*record) - sizeof(record->checksum)); }

static int read_record(uint32_t sector, st_record *record) {
  memcpy(record, pf_storage() + sector * BD_SECTOR_BYTES, sizeof(*record));
  return record->magic == MAGIC && record->checksum == checksum_of(record);
}

/* Makes a changed copy of the journal the valid one, or leaves all as it was. */
static uint32_t write_journal(st_record changed) {
  changed.magic = MAGIC;
  changed.sequence = journal.sequence + 1;
  changed.checksum = checksum_of(&changed);
  const uint32_t offset = changed.sequence % 2 * BD_SECTOR_BYTES;
  if (!pf_erase(offset) || !pf_write(offset, (const uint8_t *)&changed, sizeof(changed))) return MC_STATUS_STORAGE;
  st_record written;
  if (!read_record(changed.sequence % 2, &written) || written.sequence != changed.sequence) return MC_STATUS_STORAGE;
  journal = changed;
  return MC_STATUS_OK;
}

int st_has_reverted(void) { return has_reverted; }
const st_record *st_journal(void) { return &journal; }

void st_start(void) {
  st_record records[2];
  const int valid[2] = {read_record(0, &records[0]), read_record(1, &records[1])};
  if (valid[0] && valid[1]) journal = records[(int32_t)(records[1].sequence - records[0].sequence) > 0];
  else if (valid[0] || valid[1]) journal = records[valid[1]];
  else journal = (st_record){.active = MC_NO_SLOT, .previous = MC_NO_SLOT};
  if (journal.is_on_trial) has_reverted = st_revert() == MC_STATUS_OK;
}

/* Of the image that came with the board; 0 where there is none. */
static uint32_t preloaded_bytes(const uint8_t *image, uint32_t capacity) {
  const uint32_t *header = (const uint32_t *)(const void *)image;
  if (capacity < 4 * IM_HEADER_RECORD_WORDS || header[IM_HEADER_MAGIC] != IM_MAGIC) return 0;
  return header[IM_HEADER_TOTAL_BYTES] <= capacity ? header[IM_HEADER_TOTAL_BYTES] : 0;
}

void st_look(uint32_t index, st_slot *slot) {
  if (index == ST_PRELOADED) {
    uint32_t capacity = 0;
    const uint8_t *image = pf_preloaded(&capacity);
    *slot = (st_slot){.image = image, .capacity = capacity, .bytes = preloaded_bytes(image, capacity)};
    return;
  }
  *slot = (st_slot){.image = pf_storage() + FIRST_SLOT + index * BD_SLOT_BYTES,
                    .sha256 = journal.sha256[index],
                    .capacity = BD_SLOT_BYTES,
                    .bytes = journal.bytes[index],
                    .is_writable = 1};
}

void st_hash(const st_slot *slot, uint8_t hash[32]) {
  if (slot->bytes == 0) memset(hash, 0, 32);
  else if (slot->sha256 != NULL) memcpy(hash, slot->sha256, 32);
  else sh_sha256(slot->image, slot->bytes, hash);
}

static int is_in_use(uint32_t index) { return index == journal.active || (journal.is_on_trial && index == journal.previous); }

/* Whether a slot may be written to: MC_STATUS_OK, or why not. */
static uint32_t is_open(uint32_t index) {
  if (index >= ST_SLOTS) return MC_STATUS_RANGE;
  if (index >= ST_WRITABLE) return MC_STATUS_READ_ONLY;
  return journal.bytes[index] != 0 ? MC_STATUS_SLOT_SEALED : MC_STATUS_OK;
}

uint32_t st_open(uint32_t index) {
  const uint32_t status = is_open(index);
  if (status != MC_STATUS_SLOT_SEALED) return status;
  if (is_in_use(index)) return MC_STATUS_SLOT_IN_USE;
  st_record changed = journal;
  changed.bytes[index] = 0;
  if (changed.previous == index) changed.previous = MC_NO_SLOT;
  return write_journal(changed);
}

/* Writes whole units, the last of them filled up with erased bytes. */
static int write_units(uint32_t offset, const uint8_t *bytes, uint32_t count) {
  const uint32_t whole = count / PF_WRITE_BYTES * PF_WRITE_BYTES;
  if (whole > 0 && !pf_write(offset, bytes, whole)) return 0;
  if (whole == count) return 1;
  uint8_t last[PF_WRITE_BYTES];
  memset(last, 0xff, sizeof(last));
  memcpy(last, bytes + whole, count - whole);
  return pf_write(offset + whole, last, sizeof(last));
}

uint32_t st_erase(uint32_t index, uint32_t offset) {
  const uint32_t status = is_open(index);
  if (status != MC_STATUS_OK) return status;
  if (offset % BD_SECTOR_BYTES != 0 || offset >= BD_SLOT_BYTES) return MC_STATUS_RANGE;
  return pf_erase(FIRST_SLOT + index * BD_SLOT_BYTES + offset) ? MC_STATUS_OK : MC_STATUS_STORAGE;
}

uint32_t st_write(uint32_t index, uint32_t offset, const uint8_t *bytes, uint32_t count, uint32_t *detail) {
  const uint32_t status = is_open(index);
  if (status != MC_STATUS_OK) return status;
  if (offset % PF_WRITE_BYTES != 0 || offset > BD_SLOT_BYTES || count > BD_SLOT_BYTES - offset) return MC_STATUS_RANGE;
  const uint32_t start = FIRST_SLOT + index * BD_SLOT_BYTES;
  const uint8_t *place = pf_storage() + start;
  if (memcmp(place + offset, bytes, count) == 0) return MC_STATUS_OK;
  for (uint32_t i = 0; i < count; i++) {
    if (place[offset + i] == 0xff) continue;
    *detail = (offset + i) / BD_SECTOR_BYTES * BD_SECTOR_BYTES;
    return MC_STATUS_NOT_ERASED;
  }
  const int is_written = write_units(start + offset, bytes, count) && memcmp(place + offset, bytes, count) == 0;
  return is_written ? MC_STATUS_OK : MC_STATUS_STORAGE;
}

uint32_t st_seal(uint32_t index, uint32_t bytes, const uint8_t sha256[32], uint32_t *detail) {
  if (index >= ST_WRITABLE) return index >= ST_SLOTS ? MC_STATUS_RANGE : MC_STATUS_READ_ONLY;
  if (bytes == 0 || bytes > BD_SLOT_BYTES) return MC_STATUS_RANGE;
  if (journal.bytes[index] != 0) {
    const int is_same = journal.bytes[index] == bytes && memcmp(journal.sha256[index], sha256, 32) == 0;
    return is_same ? MC_STATUS_OK : MC_STATUS_SLOT_SEALED;
  }
  const uint8_t *image = pf_storage() + FIRST_SLOT + index * BD_SLOT_BYTES;
  uint8_t hash[32];
  sh_sha256(image, bytes, hash);
  if (memcmp(hash, sha256, sizeof(hash)) != 0) return MC_STATUS_DIGEST;
  const en_result checked = en_check(image, bytes);
  if (checked.status != EN_OK) {
    *detail = checked.status;
    return MC_STATUS_IMAGE;
  }
  st_record changed = journal;
  changed.bytes[index] = bytes;
  memcpy(changed.sha256[index], hash, sizeof(hash));
  return write_journal(changed);
}

uint32_t st_activate(uint32_t index) {
  if (index == journal.active) return MC_STATUS_OK;
  if (journal.is_on_trial && index == journal.previous) return st_revert();
  st_record changed = journal;
  if (!journal.is_on_trial) changed.previous = journal.active;
  changed.active = index;
  changed.is_on_trial = 1;
  return write_journal(changed);
}

uint32_t st_confirm(void) {
  if (!journal.is_on_trial) return MC_STATUS_NOT_ON_TRIAL;
  st_record changed = journal;
  changed.is_on_trial = 0;
  return write_journal(changed);
}

uint32_t st_revert(void) {
  if (!journal.is_on_trial) return MC_STATUS_NOT_ON_TRIAL;
  st_record changed = journal;
  changed.active = journal.previous;
  changed.previous = MC_NO_SLOT;
  changed.is_on_trial = 0;
  return write_journal(changed);
}
