/*
 * INVARIANTS
 * 1. Nothing is executed whose checksum is wrong, whose length does not fit, or that is older than what was executed last.
 * 2. The reply to the last request is kept until the next one, so that a lost reply costs nothing but time.
 */
#include "wire.h"

#include <stdalign.h>
#include <string.h>

#include "../../native/engine/engine.h"
#include "commands.h"
#include "platform.h"
#include "protocol.h"

enum { CHECKSUM_BYTES = 4, BLOCK_BYTES = 254 };

/* The frame that is arriving, without its stuffing. */
static struct {
  alignas(8) uint8_t bytes[MC_FRAME_BYTES];
  uint32_t used;
  uint8_t left;            /* bytes until the next code of COBS */
  uint8_t has_zero_next;   /* the block before ended in a zero, unless the frame ends here */
  uint8_t is_too_long;
} incoming;

/* The last reply. */
static struct {
  alignas(8) uint8_t bytes[MC_FRAME_BYTES];
  uint32_t used;
} outgoing;

static struct {
  uint32_t session, last;
  uint8_t has_session, has_last;
} state;

static wi_counts counts;

const wi_counts *wi_statistics(void) { return &counts; }

/* Sends a frame whose checksum is still missing; there is room for it behind `count` bytes. */
static void send_frame(uint8_t *bytes, uint32_t count) {
  const uint32_t checksum = en_crc32(bytes, count);
  memcpy(bytes + count, &checksum, CHECKSUM_BYTES);
  const uint32_t total = count + CHECKSUM_BYTES;
  const uint8_t delimiter = 0;
  pf_send(&delimiter, 1);
  for (uint32_t start = 0;;) {
    uint32_t end = start;
    while (end < total && end - start < BLOCK_BYTES && bytes[end] != 0) end++;
    const uint8_t code = (uint8_t)(end - start + 1);
    pf_send(&code, 1);
    pf_send(bytes + start, end - start);
    if (end == total) break;
    /* A full block has no zero behind it. */
    start = end - start == BLOCK_BYTES ? end : end + 1;
  }
  pf_send(&delimiter, 1);
}

/* A reply without data: `started` while a command takes long, or a refusal of what is no part of a session. */
static void send_note(const mc_header *request, uint16_t status) {
  alignas(8) uint8_t bytes[sizeof(mc_header) + sizeof(mc_failure) + CHECKSUM_BYTES] = {0};
  const mc_header header = {request->sequence, request->command, status};
  memcpy(bytes, &header, sizeof(header));
  send_frame(bytes, sizeof(mc_header) + sizeof(mc_failure));
}

static void reply(const mc_header *request, uint16_t status, uint32_t bytes) {
  const mc_header header = {request->sequence, request->command, status};
  memcpy(outgoing.bytes, &header, sizeof(header));
  outgoing.used = sizeof(header) + bytes;
  send_frame(outgoing.bytes, outgoing.used);
}

static void execute(const mc_header *header, uint32_t bytes) {
  cm_call call = {.request = incoming.bytes + sizeof(mc_header),
                  .request_bytes = bytes,
                  .reply = outgoing.bytes + sizeof(mc_header),
                  .reply_data_room = MC_FRAME_BYTES - sizeof(mc_header) - CHECKSUM_BYTES};
  const cm_command *command = cm_find(header->command);
  uint32_t status = MC_STATUS_UNKNOWN_COMMAND;
  if (command != NULL && !cm_fits(command, bytes)) {
    status = MC_STATUS_MALFORMED;
  } else if (command != NULL) {
    if (command->takes_long) send_note(header, MC_STATUS_STARTED);
    status = cm_execute(command, &call);
  }
  if (status == MC_STATUS_OK) {
    reply(header, MC_STATUS_OK, command->reply_bytes + call.reply_data_bytes);
  } else {
    const mc_failure failure = {call.detail};
    memcpy(outgoing.bytes + sizeof(mc_header), &failure, sizeof(failure));
    reply(header, (uint16_t)status, sizeof(failure));
  }
  if (call.resets) pf_reset();
}

/* A greeting begins a session, unless it is the one that is going on. */
static void greet(uint32_t bytes) {
  mc_hello_request hello;
  if (bytes != sizeof(hello)) return;
  memcpy(&hello, incoming.bytes + sizeof(mc_header), sizeof(hello));
  if (state.has_session && state.session == hello.session) return;
  state.session = hello.session;
  state.has_session = 1;
  state.has_last = 0;
}

static void take_frame(void) {
  const uint32_t total = incoming.used;
  uint32_t checksum;
  if (total < sizeof(mc_header) + CHECKSUM_BYTES) {
    counts.damaged++;
    return;
  }
  memcpy(&checksum, incoming.bytes + total - CHECKSUM_BYTES, CHECKSUM_BYTES);
  if (checksum != en_crc32(incoming.bytes, total - CHECKSUM_BYTES)) {
    counts.damaged++;
    return;
  }
  counts.received++;
  const uint32_t bytes = total - sizeof(mc_header) - CHECKSUM_BYTES;
  mc_header header;
  memcpy(&header, incoming.bytes, sizeof(header));
  if (header.command == CM_HELLO) greet(bytes);
  if (!state.has_session) {
    send_note(&header, MC_STATUS_NO_SESSION);
    return;
  }
  const int32_t ahead = (int32_t)(header.sequence - state.last);
  if (state.has_last && ahead == 0) {
    counts.repeated++;
    send_frame(outgoing.bytes, outgoing.used);
  } else if (state.has_last && ahead < 0) {
    counts.stale++;
  } else {
    state.last = header.sequence;
    state.has_last = 1;
    execute(&header, bytes);
  }
}

static void append(uint8_t byte) {
  if (incoming.used < MC_FRAME_BYTES) incoming.bytes[incoming.used++] = byte;
  else incoming.is_too_long = 1;
}

void wi_take(uint8_t byte) {
  if (byte != 0) {
    if (incoming.left > 0) {
      append(byte);
      incoming.left--;
      return;
    }
    if (incoming.has_zero_next) append(0);
    incoming.has_zero_next = byte != BLOCK_BYTES + 1;
    incoming.left = byte - 1;
    return;
  }
  const int is_whole = incoming.left == 0 && !incoming.is_too_long;
  /* Nothing between two zeros is no frame. */
  if (!is_whole) counts.damaged++;
  else if (incoming.used > 0 || incoming.has_zero_next) take_frame();
  incoming.used = 0;
  incoming.left = incoming.has_zero_next = incoming.is_too_long = 0;
}
