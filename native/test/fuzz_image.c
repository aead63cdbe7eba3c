/*
 * Hostile images: whatever the bytes, the engine refuses them or runs them within its own memory.
 *
 *   fuzz_image SEED CASES IMAGE...   mutates the images CASES times, the checksum put right, and runs what passes
 *   clang -fsanitize=fuzzer -DFUZZER  the same as a libFuzzer target, guided by coverage; start it on a folder of images
 *
 * Built with -fsanitize=address,undefined, which is what tells: the arena and the scratch memory are exactly as large as asked for.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../engine/engine.h"
#include "../engine/image.h"
#include "machine.h"

/* What an image may ask for here: enough for any of the small ones, quickly run. */
#define MAX_BYTES ((size_t)1 << 24)
#define MAX_WORK ((int64_t)1 << 22)

static uint32_t crc32(const uint8_t *bytes, size_t count) {
  uint32_t crc = 0xffffffff;
  for (size_t i = 0; i < count; i++) {
    crc ^= bytes[i];
    for (int bit = 0; bit < 8; bit++) crc = crc & 1 ? crc >> 1 ^ 0xedb88320 : crc >> 1;
  }
  return ~crc;
}

static void *allocate(size_t bytes) {
  void *memory;
  if (posix_memalign(&memory, KN_ALIGNMENT, bytes == 0 ? KN_ALIGNMENT : bytes) != 0) abort();
  memset(memory, 0xA5, bytes);
  return memory;
}

/* Multiplications and moves of a checked image, about; what would take long says nothing about memory that a short one does not. */
static int64_t work_of(const uint8_t *image) {
  const uint32_t *header = (const uint32_t *)(const void *)image;
  const uint32_t *tensors = header + header[IM_HEADER_TENSOR_OFFSET] / 4;
  const uint32_t *words = header + header[IM_HEADER_OPERATOR_OFFSET] / 4;
  const uint32_t *stage = header[IM_HEADER_STAGE_OFFSET] == 0 ? NULL : header + header[IM_HEADER_STAGE_OFFSET] / 4;
  const int64_t patches = stage == NULL ? 1 : (int64_t)stage[IM_STAGE_GRID_ROWS] * stage[IM_STAGE_GRID_COLUMNS];
  int64_t work = 0;
  for (uint32_t i = 0; i < header[IM_HEADER_OPERATOR_COUNT]; i++, words += words[IM_OPERATOR_WORDS]) {
    const uint32_t *f = words + IM_OPERATOR_RECORD_WORDS + words[IM_OPERATOR_INPUT_COUNT];
    int64_t each = 1;
    if (words[IM_OPERATOR_KIND] == IM_KIND_CONVOLUTION)
      each = (int64_t)f[IM_CONVOLUTION_KERNEL_HEIGHT] * f[IM_CONVOLUTION_KERNEL_WIDTH] * (f[IM_CONVOLUTION_IN_CHANNELS] / f[IM_CONVOLUTION_GROUPS]);
    if (words[IM_OPERATOR_KIND] == IM_KIND_MAX_POOL || words[IM_OPERATOR_KIND] == IM_KIND_AVERAGE_POOL)
      each = (int64_t)f[IM_MAX_POOL_KERNEL_HEIGHT] * f[IM_MAX_POOL_KERNEL_WIDTH];
    int64_t size = tensors[words[IM_OPERATOR_OUTPUT] * IM_TENSOR_RECORD_WORDS + IM_TENSOR_ELEMENTS];
    if (words[IM_OPERATOR_KIND] == IM_KIND_COPY) {
      size = 1;
      for (int d = 0; d < KN_COPY_RANK; d++) size *= f[IM_COPY_SIZE_0 + d];
    }
    if (each > MAX_WORK || size > MAX_WORK) return INT64_MAX;
    work += each * size * patches;
    if (work > MAX_WORK) return INT64_MAX;
  }
  return work;
}

/* Checks, prepares and runs an image; answers whether it ran. */
static int try_image(const uint8_t *bytes, size_t size) {
  uint8_t *image = allocate(size);
  memcpy(image, bytes, size);
  int ran = 0;
  const uint32_t *header = (const uint32_t *)(const void *)image;
  if (en_check(image, size).status == EN_OK && header[IM_HEADER_ARENA_BYTES] <= MAX_BYTES && work_of(image) <= MAX_WORK) {
    const en_options options = {machine_features(), 0};
    const size_t memory_bytes = en_memory_bytes(image, &options);
    if (memory_bytes <= MAX_BYTES) {
      void *memory = allocate(memory_bytes);
      en_model *model;
      if (en_prepare(image, &options, memory, memory_bytes, &model).status != EN_OK) abort();
      if (en_scratch_bytes(model) <= MAX_BYTES) {
        void *arena = allocate(en_arena_bytes(model)), *scratch = allocate(en_scratch_bytes(model));
        const uint32_t *tensor = header + header[IM_HEADER_TENSOR_OFFSET] / 4;
        float *buffers[2][16] = {{0}};
        uint32_t count[2] = {0, 0};
        for (uint32_t i = 0; i < header[IM_HEADER_TENSOR_COUNT]; i++, tensor += IM_TENSOR_RECORD_WORDS) {
          const uint32_t place = tensor[IM_TENSOR_PLACE];
          if (place != IM_PLACE_ARENA && count[place - 1] < 16)
            buffers[place - 1][count[place - 1]++] = allocate(4 * (size_t)tensor[IM_TENSOR_ELEMENTS]);
        }
        if (header[IM_HEADER_INPUT_COUNT] <= 16 && header[IM_HEADER_OUTPUT_COUNT] <= 16) {
          en_run(model, arena, scratch, (const float *const *)buffers[0], buffers[1], NULL);
          ran = 1;
        }
        for (int side = 0; side < 2; side++)
          for (uint32_t i = 0; i < count[side]; i++) free(buffers[side][i]);
        free(arena);
        free(scratch);
      }
      free(memory);
    }
  }
  free(image);
  return ran;
}

/* Puts right what would otherwise end every mutation at once. */
static void seal(uint8_t *bytes, size_t size) {
  if (size < 4 * IM_HEADER_RECORD_WORDS) return;
  const uint32_t total = (uint32_t)size, crc = crc32(bytes + 4 * IM_HEADER_RECORD_WORDS, size - 4 * IM_HEADER_RECORD_WORDS);
  memcpy(bytes + 4 * IM_HEADER_TOTAL_BYTES, &total, 4);
  memcpy(bytes + 4 * IM_HEADER_CHECKSUM, &crc, 4);
}

#ifdef FUZZER
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  uint8_t *bytes = malloc(size + 1);
  if (bytes == NULL) abort();
  memcpy(bytes, data, size);
  seal(bytes, size);
  try_image(bytes, size);
  free(bytes);
  return 0;
}
#else
static uint64_t state;
static uint64_t next(void) {
  uint64_t z = (state += UINT64_C(0x9E3779B97F4A7C15));
  z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
  return z ^ (z >> 31);
}

/* Changes some words of the records, rarely of the data: to neighbours, to extremes, to what other words are. */
static size_t mutate(uint8_t *bytes, size_t size) {
  const uint32_t *header = (const uint32_t *)(const void *)bytes;
  const size_t records = header[IM_HEADER_DATA_OFFSET] / 4;
  static const uint32_t extremes[] = {0, 1, 2, 255, 256, 65535, 0x7fffffff, 0x80000000, 0xffffffff, 0x01000000};
  for (uint64_t n = 1 + next() % 3; n > 0; n--) {
    const size_t words = next() % 8 == 0 ? size / 4 : records;
    const size_t at = 4 * (next() % words);
    uint32_t word, other;
    memcpy(&word, bytes + at, 4);
    memcpy(&other, bytes + 4 * (next() % words), 4);
    switch (next() % 6) {
      case 0: word = extremes[next() % (sizeof(extremes) / sizeof(extremes[0]))]; break;
      case 1: word ^= 1u << next() % 32; break;
      case 2: word += (uint32_t)(next() % 9) - 4; break;
      case 3: word = other; break;
      case 4: word *= 2; break;
      default: word /= 2;
    }
    memcpy(bytes + at, &word, 4);
  }
  return next() % 16 == 0 ? next() % (size + 1) / 4 * 4 : size;
}

int main(int argc, char **argv) {
  if (argc < 4) {
    fprintf(stderr, "usage: fuzz_image SEED CASES IMAGE...\n");
    return 2;
  }
  const uint64_t seed = strtoull(argv[1], NULL, 10);
  const long cases = strtol(argv[2], NULL, 10);
  long ran = 0;
  for (int i = 3; i < argc; i++) {
    FILE *file = fopen(argv[i], "rb");
    static uint8_t original[1 << 20], bytes[1 << 20] __attribute__((aligned(16)));
    if (file == NULL) return 2;
    const size_t size = fread(original, 1, sizeof(original), file);
    fclose(file);
    if (!try_image(original, size)) {
      printf("FAILED: %s does not run as it is\n", argv[i]);
      return 1;
    }
    for (long n = 0; n < cases; n++) {
      state = seed * UINT64_C(0x9E3779B97F4A7C15) + (uint64_t)n;
      memcpy(bytes, original, size);
      const size_t mutated = mutate(bytes, size);
      seal(bytes, mutated);
      ran += try_image(bytes, mutated);
    }
  }
  printf("ok: %ld of %ld mutated images ran\n", ran, cases * (argc - 3));
  return 0;
}
#endif
