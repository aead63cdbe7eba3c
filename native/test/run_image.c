/*
 * Runs an image once: run_image IMAGE INPUT.f32 OUTPUT.f32 [KERNEL]. The inputs' floats lie in a file one behind the other, in the order
 * of the image, and so are the outputs written; all in the byte order of the machine. With the machine's instruction sets; KERNEL is the
 * one kernel to use wherever it can be ("direct8"). "reference" uses the portable build of the other operators, too. Prints the kernel of
 * each convolution.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../engine/engine.h"
#include "../engine/image.h"
#include "machine.h"

enum { MAX_BUFFERS = 16 };

static void stop(const char *what, const char *of) {
  fprintf(stderr, "run_image: %s: %s\n", of, what);
  exit(1);
}

static void *allocate(size_t bytes) {
  void *memory;
  if (posix_memalign(&memory, KN_ALIGNMENT, bytes == 0 ? KN_ALIGNMENT : bytes) != 0) stop("no memory", "malloc");
  memset(memory, 0, bytes);
  return memory;
}

static uint8_t *contents(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  if (file == NULL || fseek(file, 0, SEEK_END) != 0) stop("cannot be read", path);
  const long bytes = ftell(file);
  rewind(file);
  uint8_t *all = allocate((size_t)bytes);
  if (fread(all, 1, (size_t)bytes, file) != (size_t)bytes) stop("cannot be read", path);
  fclose(file);
  *size = (size_t)bytes;
  return all;
}

/* The floats of the inputs or of the outputs. */
typedef struct {
  float *at[MAX_BUFFERS];
  size_t count[MAX_BUFFERS];
  uint32_t used;
} buffers;

static buffers buffers_of(const uint32_t *header, uint32_t place) {
  const uint32_t *tensor = header + header[IM_HEADER_TENSOR_OFFSET] / 4;
  buffers b = {.used = 0};
  for (uint32_t i = 0; i < header[IM_HEADER_TENSOR_COUNT]; i++, tensor += IM_TENSOR_RECORD_WORDS) {
    if (tensor[IM_TENSOR_PLACE] != place) continue;
    if (b.used == MAX_BUFFERS) stop("too many inputs or outputs", "image");
    b.count[b.used] = tensor[IM_TENSOR_ELEMENTS];
    b.at[b.used++] = allocate(sizeof(float) * (size_t)tensor[IM_TENSOR_ELEMENTS]);
  }
  return b;
}

int main(int argc, char **argv) {
  if (argc != 4 && argc != 5) {
    fprintf(stderr, "usage: run_image IMAGE INPUT.f32 OUTPUT.f32 [KERNEL]\n");
    return 2;
  }
  size_t size, floats;
  const uint8_t *image = contents(argv[1], &size), *from = contents(argv[2], &floats);
  const en_result checked = en_check(image, size);
  if (checked.status != EN_OK) stop(checked.what, argv[1]);
  const char *kernel = argc > 4 ? argv[4] : NULL;
  const int portable = kernel != NULL && strcmp(kernel, "reference") == 0;
  const en_options options = {portable ? 0 : machine_features(), kernel == NULL ? 0 : en_kernel_hash(kernel)};
  const size_t memory_bytes = en_memory_bytes(image, &options);
  en_model *model;
  if (en_prepare(image, &options, allocate(memory_bytes), memory_bytes, &model).status != EN_OK) stop("cannot be prepared", argv[1]);

  const uint32_t *header = (const uint32_t *)(const void *)image;
  const buffers inputs = buffers_of(header, IM_PLACE_INPUT), outputs = buffers_of(header, IM_PLACE_OUTPUT);
  for (uint32_t i = 0; i < inputs.used; i++) {
    const size_t bytes = inputs.count[i] * sizeof(float);
    if (bytes > floats) stop("has fewer floats than the image has inputs", argv[2]);
    memcpy(inputs.at[i], from, bytes);
    from += bytes, floats -= bytes;
  }
  if (floats != 0) stop("has more floats than the image has inputs", argv[2]);
  en_run(model, allocate(en_arena_bytes(model)), allocate(en_scratch_bytes(model)), (const float *const *)inputs.at, (float *const *)outputs.at, NULL);

  FILE *to = fopen(argv[3], "wb");
  if (to == NULL) stop("cannot be written", argv[3]);
  for (uint32_t i = 0; i < outputs.used; i++) {
    if (fwrite(outputs.at[i], sizeof(float), outputs.count[i], to) != outputs.count[i]) stop("cannot be written", argv[3]);
  }
  if (fclose(to) != 0) stop("cannot be written", argv[3]);
  for (int32_t i = 0; i < en_operator_count(model); i++) {
    if (en_kernel_name(model, i)[0] != '\0') printf("%s\n", en_kernel_name(model, i));
  }
  return 0;
}
