/*
 * Hostile lines: whatever bytes arrive, and whatever well-formed requests, the firmware answers or drops them within its own memory.
 *
 *   fuzz_wire SEED CASES IMAGE...    random bytes, damaged frames, and whole requests with random arguments, CASES of them
 *
 * Built with -fsanitize=address,undefined, which is what tells. The images are brought into slots piece by piece among all that, so that
 * models are loaded, measured and run as well.
 */
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../../native/engine/engine.h"
#include "../commands.h"
#include "../model.h"
#include "../platform.h"
#include "../protocol.h"
#include "../sha256.h"
#include "../store.h"
#include "../wire.h"
#include "board.h"

#define STORAGE_BYTES (2u * BD_SECTOR_BYTES + 2u * BD_SLOT_BYTES)
enum { WORKSPACE_BYTES = 1 << 16, MOST_IMAGES = 8, COMMANDS = 32, MOST_BYTES = 2048 };

static uint8_t *storage, *workspace;
static struct {
  uint8_t *bytes;
  uint32_t size;
} images[MOST_IMAGES];
static uint32_t image_count;
static jmp_buf start_again;

/* The last frame that was sent, as it lies on the line. */
static uint8_t sent[2 * MC_FRAME_BYTES];
static uint32_t sent_bytes;

void pf_start(void) {}
int32_t pf_receive(void) { return -1; }
void pf_wait(void) {}
void pf_send(const uint8_t *bytes, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    if (bytes[i] == 0 && sent_bytes > 1) sent_bytes = 0;
    if (sent_bytes == sizeof(sent)) abort();
    sent[sent_bytes++] = bytes[i];
  }
}
uint32_t pf_bytes_lost(void) { return 0; }
uint32_t pf_counter(void) { return MC_COUNTER_NANOSECONDS; }
const char *pf_counter_source(void) { return "none"; }
void pf_counter_start(void) {}
int pf_counter_stop(uint64_t *counted) {
  static uint64_t count;
  *counted = ++count % 100;
  return count % 50 != 0;
}
const uint8_t *pf_storage(void) { return storage; }
int pf_erase(uint32_t offset) {
  if (offset % BD_SECTOR_BYTES != 0 || offset >= STORAGE_BYTES) abort();
  memset(storage + offset, 0xff, BD_SECTOR_BYTES);
  return 1;
}
int pf_write(uint32_t offset, const uint8_t *bytes, uint32_t count) {
  if (offset % PF_WRITE_BYTES != 0 || count % PF_WRITE_BYTES != 0 || offset + count > STORAGE_BYTES) abort();
  for (uint32_t i = 0; i < count; i++) storage[offset + i] &= bytes[i];
  return 1;
}
const uint8_t *pf_preloaded(uint32_t *bytes) {
  *bytes = images[0].size;
  return images[0].bytes;
}
uint8_t *pf_workspace(uint32_t *bytes) {
  *bytes = WORKSPACE_BYTES;
  return workspace;
}
uint32_t pf_stack_used(void) { return 0; }
uint32_t pf_stack_bytes(void) { return 0; }
uint32_t pf_last_start(void) { return MC_START_POWER; }
void pf_reset(void) { longjmp(start_again, 1); }

static uint64_t state;
static uint32_t next(void) {
  uint64_t z = (state += UINT64_C(0x9E3779B97F4A7C15));
  z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
  return (uint32_t)(z ^ (z >> 31));
}
static uint32_t below(uint32_t limit) { return next() % limit; }

/* A word that means something now and then. */
static uint32_t word(void) {
  static const uint32_t extremes[] = {0x7fffffff, 0x80000000, 0xffffffff, 0xffffffe0, BD_SLOT_BYTES, BD_SLOT_BYTES - 32, 1024, 256, 64, 65};
  switch (below(8)) {
    case 0: return extremes[below(sizeof(extremes) / sizeof(extremes[0]))];
    case 1: return next();
    case 2: return 32 * below(600);
    case 3: return BD_SECTOR_BYTES * below(34);
    default: return below(4);
  }
}

static uint32_t sequence;

/* Stuffs a frame and hands it over, with faults on the way now and then. */
static void deliver(uint8_t *frame, uint32_t count) {
  const uint32_t checksum = en_crc32(frame, count);
  memcpy(frame + count, &checksum, 4);
  const uint32_t total = count + 4;
  const uint32_t broken = below(20) == 0 ? below(total) : total;
  wi_take(0);
  for (uint32_t start = 0;;) {
    uint32_t end = start;
    while (end < total && end - start < 254 && frame[end] != 0) end++;
    wi_take((uint8_t)(end - start + 1));
    for (uint32_t i = start; i < end; i++) {
      if (i == broken && below(2)) continue;
      wi_take(i == broken ? (uint8_t)next() : frame[i]);
    }
    if (end == total) break;
    start = end - start == 254 ? end : end + 1;
  }
  wi_take(0);
}

static void request(uint16_t command, const void *record, uint32_t record_bytes, const uint8_t *data, uint32_t data_bytes) {
  static uint8_t frame[MOST_BYTES];
  const uint32_t number = below(30) == 0 ? sequence - below(3) : ++sequence;
  const mc_header header = {number, command, (uint16_t)(below(100) == 0 ? next() : 0)};
  memcpy(frame, &header, sizeof(header));
  if (record_bytes > 0) memcpy(frame + sizeof(header), record, record_bytes);
  if (data_bytes > 0) memcpy(frame + sizeof(header) + record_bytes, data, data_bytes);
  deliver(frame, (uint32_t)sizeof(header) + record_bytes + data_bytes);
}

/* Some command with some arguments; its length is right, mostly. */
static void any_request(void) {
  uint32_t record[16];
  static uint8_t data[MC_PIECE_BYTES + 64];
  const uint16_t number = (uint16_t)(below(50) == 0 ? next() : below(COMMANDS));
  const cm_command *command = cm_find(number);
  for (uint32_t i = 0; i < 16; i++) record[i] = word();
  uint32_t bytes = command != NULL ? command->request_bytes : 4 * below(16);
  if (below(20) == 0) bytes = below(64);
  uint32_t data_bytes = command != NULL && command->takes_data ? below(3) == 0 ? below(sizeof(data)) : 4 * below(64) : 0;
  for (uint32_t i = 0; i < data_bytes; i++) data[i] = (uint8_t)(below(4) == 0 ? next() : 0);
  request(number, record, bytes, data, data_bytes);
}

/* Brings an image into a slot, as a gateway would, without looking at the answers. */
static void upload(uint32_t slot) {
  const uint32_t which = below(image_count), size = images[which].size;
  if (size > BD_SLOT_BYTES) return;
  const mc_slot_open_request open = {slot};
  request(CM_NUMBER_slot_open, &open, sizeof(open), NULL, 0);
  for (uint32_t offset = 0; offset < BD_SLOT_BYTES; offset += BD_SECTOR_BYTES) {
    const mc_slot_erase_request erase = {slot, offset};
    request(CM_NUMBER_slot_erase, &erase, sizeof(erase), NULL, 0);
  }
  for (uint32_t offset = 0; offset < size; offset += MC_PIECE_BYTES) {
    const mc_slot_write_request write = {slot, offset};
    request(CM_NUMBER_slot_write, &write, sizeof(write), images[which].bytes + offset, size - offset < MC_PIECE_BYTES ? size - offset : MC_PIECE_BYTES);
  }
  mc_slot_seal_request seal = {.slot = slot, .bytes = size};
  sh_sha256(images[which].bytes, size, seal.sha256);
  request(CM_NUMBER_slot_seal, &seal, sizeof(seal), NULL, 0);
}

/* Writes an input, or a patch's window of it. */
static void write_input(uint32_t input, uint32_t patch, uint32_t elements) {
  float values[MC_PIECE_BYTES / sizeof(float)] = {0};
  for (uint32_t offset = 0; offset < elements;) {
    const uint32_t room = elements - offset < MC_PIECE_BYTES / 4 ? elements - offset : MC_PIECE_BYTES / 4;
    const uint32_t count = 1 + below(room);
    for (uint32_t i = 0; i < count; i++) {
      const uint32_t bits = next();
      memcpy(&values[i], &bits, sizeof(bits)); /* NaN and infinity among them */
    }
    const mc_input_write_request write = {input, patch, offset};
    request(CM_NUMBER_input_write, &write, sizeof(write), (const uint8_t *)values, count * 4);
    offset += count;
  }
}

/* Writes whole inputs, so that a run that follows has them; patch by patch, where the model wants that. */
static void write_inputs(void) {
  const md_facts *model = md_model();
  for (uint32_t patch = 0; model != NULL && patch < model->patches; patch++) {
    en_window_of_input w;
    md_window(patch, &w);
    write_input(0, patch, w.channels * (w.end_row - w.first_row) * (w.end_column - w.first_column));
    const mc_patch_run_request run = {patch};
    request(CM_NUMBER_patch_run, &run, sizeof(run), NULL, 0);
    model = md_model();
  }
  for (uint32_t input = 0; model != NULL && model->patches == 0 && input < model->inputs; input++) {
    write_input(input, 0, md_elements(1, input));
    model = md_model();
  }
  request(CM_NUMBER_run, NULL, 0, NULL, 0);
}

static uint8_t *allocate(uint32_t bytes) {
  void *memory;
  if (posix_memalign(&memory, KN_ALIGNMENT, bytes) != 0) abort();
  memset(memory, 0xff, bytes);
  return memory;
}

int main(int argc, char **argv) {
  if (argc < 4 || argc > 3 + MOST_IMAGES) {
    fprintf(stderr, "usage: fuzz_wire SEED CASES IMAGE...\n");
    return 2;
  }
  for (; image_count < (uint32_t)argc - 3; image_count++) {
    FILE *file = fopen(argv[3 + image_count], "rb");
    if (file == NULL) return 2;
    images[image_count].bytes = allocate(1 << 20);
    images[image_count].size = (uint32_t)fread(images[image_count].bytes, 1, 1 << 20, file);
    fclose(file);
  }
  storage = allocate(STORAGE_BYTES);
  workspace = allocate(WORKSPACE_BYTES);
  state = strtoull(argv[1], NULL, 10);
  const long cases = strtol(argv[2], NULL, 10);
  static long done, runs;
  /* A reset comes back here. */
  (void)setjmp(start_again);
  st_start();
  for (; done < cases; done++) {
    const uint32_t what = below(100);
    if (what < 5) {
      for (uint32_t i = below(3000); i > 0; i--) wi_take((uint8_t)(below(10) == 0 ? 0 : next()));
    } else if (what < 8) {
      upload(below(2));
    } else if (what < 15) {
      runs += md_model() != NULL;
      write_inputs();
    } else if (what < 18) {
      const mc_hello_request hello = {MC_VERSION, below(3)};
      request(CM_HELLO, &hello, sizeof(hello), NULL, 0);
    } else {
      any_request();
    }
  }
  const wi_counts *counts = wi_statistics();
  printf("ok: %ld cases, %u frames received, %u damaged, %u repeated, %u stale, %ld runs of models\n", done, counts->received, counts->damaged,
         counts->repeated, counts->stale, runs);
  return 0;
}
