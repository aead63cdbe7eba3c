/*
 * The firmware as a process: for tests, for gateways without a board, and to look into. It opens a pseudo-terminal, prints `pty PATH`, and
 * answers there; it ends when its standard input does.
 *
 *   host [--storage FILE] [--preloaded IMAGE] [--cut-power-after BYTES]
 *
 * The storage behaves as NOR flash does: what is written must have been erased, and a process that is killed leaves what a power cut
 * would leave, half-written pieces included. --cut-power-after kills it when so many bytes have been erased and written.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "../../../native/kernels/kernels.h"
#include "../platform.h"
#include "../protocol.h"
#include "board.h"

#define STORAGE_BYTES (2u * BD_SECTOR_BYTES + 2u * BD_SLOT_BYTES)

static struct {
  int line;
  uint8_t received[4096];
  ssize_t count, next;
  uint8_t *storage;
  const uint8_t *preloaded;
  uint32_t preloaded_bytes;
  uint64_t bytes_to_power_cut;
  uint64_t started_ns;
  char **arguments;
} host = {.bytes_to_power_cut = UINT64_MAX};

static _Alignas(KN_ALIGNMENT) uint8_t workspace[BD_WORKSPACE_BYTES];

static void stop(const char *what, const char *of) {
  fprintf(stderr, "host: %s: %s: %s\n", of, what, strerror(errno));
  exit(1);
}

static void open_storage(const char *path) {
  const int flags = path == NULL ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
  int file = -1;
  struct stat facts = {0};
  if (path != NULL) {
    file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (file < 0 || fstat(file, &facts) != 0 || ftruncate(file, STORAGE_BYTES) != 0) stop("cannot be opened", path);
  }
  host.storage = mmap(NULL, STORAGE_BYTES, PROT_READ | PROT_WRITE, flags, file, 0);
  if (host.storage == MAP_FAILED) stop("cannot be mapped", path == NULL ? "storage" : path);
  if (facts.st_size == 0) memset(host.storage, 0xff, STORAGE_BYTES);
  if (file >= 0) close(file);
}

static void open_preloaded(const char *path) {
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  struct stat facts;
  if (file < 0 || fstat(file, &facts) != 0) stop("cannot be opened", path);
  host.preloaded = mmap(NULL, (size_t)facts.st_size, PROT_READ, MAP_PRIVATE, file, 0);
  if (host.preloaded == MAP_FAILED) stop("cannot be mapped", path);
  host.preloaded_bytes = (uint32_t)facts.st_size;
  close(file);
}

static void open_line(void) {
  host.line = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (host.line < 0 || grantpt(host.line) != 0 || unlockpt(host.line) != 0) stop("cannot be opened", "pseudo-terminal");
  /* Kept open on this side, so that the line survives the gateway; without echo from the first byte on. */
  const int other = open(ptsname(host.line), O_RDWR | O_NOCTTY | O_CLOEXEC);
  struct termios settings;
  if (other < 0 || tcgetattr(other, &settings) != 0) stop("cannot be set up", "pseudo-terminal");
  cfmakeraw(&settings);
  if (tcsetattr(other, TCSANOW, &settings) != 0) stop("cannot be set up", "pseudo-terminal");
  printf("pty %s\n", ptsname(host.line));
  fflush(stdout);
}

static uint64_t nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* The command line is the board's own; the firmware's main knows none. */
__attribute__((constructor)) static void take_arguments(int argc, char **argv) { host.arguments = argc > 0 ? argv : NULL; }

void pf_start(void) {
  const char *storage = NULL;
  char **argument = host.arguments + 1;
  for (; argument[0] != NULL && argument[1] != NULL; argument += 2) {
    if (strcmp(argument[0], "--storage") == 0) storage = argument[1];
    else if (strcmp(argument[0], "--preloaded") == 0) open_preloaded(argument[1]);
    else if (strcmp(argument[0], "--cut-power-after") == 0) host.bytes_to_power_cut = strtoull(argument[1], NULL, 10);
    else break;
  }
  if (argument[0] != NULL) {
    fprintf(stderr, "usage: host [--storage FILE] [--preloaded IMAGE] [--cut-power-after BYTES]\n");
    exit(2);
  }
  open_storage(storage);
  open_line();
}

int32_t pf_receive(void) {
  if (host.next == host.count) {
    struct pollfd line = {.fd = host.line, .events = POLLIN};
    host.next = host.count = 0;
    if (poll(&line, 1, 0) <= 0 || (line.revents & POLLIN) == 0) return -1;
    host.count = read(host.line, host.received, sizeof(host.received));
    if (host.count <= 0) {
      host.count = 0;
      return -1;
    }
  }
  return host.received[host.next++];
}

void pf_wait(void) {
  struct pollfd sources[2] = {{.fd = host.line, .events = POLLIN}, {.fd = STDIN_FILENO, .events = POLLIN}};
  if (poll(sources, 2, -1) < 0) return;
  if (sources[1].revents != 0) {
    char ignored[256];
    if (read(STDIN_FILENO, ignored, sizeof(ignored)) <= 0) exit(0);
  }
}

void pf_send(const uint8_t *bytes, uint32_t count) {
  /* Byte runs of a frame are short; they leave together. */
  static uint8_t collected[4096];
  static uint32_t used;
  for (uint32_t i = 0; i < count; i++) {
    collected[used++] = bytes[i];
    const int is_end = bytes[i] == 0 && used > 1;
    if (!is_end && used < sizeof(collected)) continue;
    for (uint32_t sent = 0; sent < used;) {
      const ssize_t taken = write(host.line, collected + sent, used - sent);
      if (taken > 0) sent += (uint32_t)taken;
      else if (errno != EINTR) break;
    }
    used = 0;
  }
}

uint32_t pf_bytes_lost(void) { return 0; }

uint32_t pf_counter(void) { return MC_COUNTER_NANOSECONDS; }
const char *pf_counter_source(void) { return "CLOCK_MONOTONIC"; }
void pf_counter_start(void) { host.started_ns = nanoseconds(); }
int pf_counter_stop(uint64_t *counted) {
  *counted = nanoseconds() - host.started_ns;
  return 1;
}

const uint8_t *pf_storage(void) { return host.storage; }

/* As many of `count` bytes as the power lasts for. */
static uint32_t powered(uint32_t count) { return count < host.bytes_to_power_cut ? count : (uint32_t)host.bytes_to_power_cut; }

static void use_power(uint32_t count) {
  if (host.bytes_to_power_cut == UINT64_MAX) return;
  host.bytes_to_power_cut -= count;
  if (host.bytes_to_power_cut == 0) raise(SIGKILL);
}

int pf_erase(uint32_t offset) {
  const uint32_t count = powered(BD_SECTOR_BYTES);
  memset(host.storage + offset, 0xff, count);
  use_power(count);
  return 1;
}

int pf_write(uint32_t offset, const uint8_t *bytes, uint32_t count) {
  const uint32_t written = powered(count);
  for (uint32_t i = 0; i < written; i++) host.storage[offset + i] &= bytes[i];
  use_power(written);
  return 1;
}

const uint8_t *pf_preloaded(uint32_t *bytes) {
  *bytes = host.preloaded_bytes;
  return host.preloaded;
}

uint8_t *pf_workspace(uint32_t *bytes) {
  *bytes = sizeof(workspace);
  return workspace;
}

/* The system grows it; nothing to measure. */
uint32_t pf_stack_used(void) { return 0; }
uint32_t pf_stack_bytes(void) { return 0; }

uint32_t pf_last_start(void) { return MC_START_POWER; }

void pf_reset(void) {
  /* The line goes with the process; a gateway sees what an unplugged board looks like. */
  exit(0);
}
