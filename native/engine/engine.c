/*
 * Executes a checked image.
 *
 * INVARIANTS
 * 1. Only images that en_check has passed come here; nothing is checked twice.
 * 2. Operators run one after the other; the parts of one may run at the same time. No part depends on how many threads there are,
 *    so the result does not either.
 * 3. A model is not changed by running it: several threads may run one model, each with an arena of its own.
 */
#include "engine.h"

#include <string.h>

#include "record.h"

typedef struct {
  en_record record;
  en_problem problem;
  const kn_convolution_kernel *kernel;
  void *packed;
} en_step;

struct en_model {
  const uint8_t *image;
  const kn_operators *operators;
  en_step *steps;
  int32_t step_count;
  size_t scratch_bytes;
};

/* Hands out aligned pieces of memory, or only counts them where there is none. What does not fit is NULL, and counted all the same. */
typedef struct {
  uint8_t *memory;
  size_t size, used;
} supply;

static size_t aligned(size_t bytes) { return (bytes + KN_ALIGNMENT - 1) / KN_ALIGNMENT * KN_ALIGNMENT; }

static void *take(supply *from, size_t bytes) {
  const size_t start = from->used;
  from->used += aligned(bytes);
  return from->memory == NULL || from->used > from->size ? NULL : from->memory + start;
}

uint32_t en_kernel_hash(const char *name) {
  uint32_t hash = 2166136261u;
  for (; *name != '\0' && *name != '.'; name++) hash = (hash ^ (uint8_t)*name) * 16777619u;
  return hash;
}

static const kn_convolution_kernel *kernel_for(const kn_convolution *c, uint32_t wanted, const en_options *options) {
  const kn_convolution_kernel *first = NULL;
  if (options->only_kernel != 0) wanted = options->only_kernel;
  for (int32_t i = 0; i < kn_convolution_kernel_count; i++) {
    const kn_convolution_kernel *kernel = kn_convolution_kernels[i];
    if ((kernel->features & ~options->features) != 0) continue;
    const int is_wanted = wanted != 0 && en_kernel_hash(kernel->name) == wanted;
    if (first != NULL && !is_wanted) continue;
    if (!kernel->supports(c)) continue;
    if (is_wanted || wanted == 0) return kernel;
    first = kernel;
  }
  return first;
}

static void prepare_step(const uint8_t *image, const uint32_t *words, const en_options *options, supply *from, en_step *step,
                         size_t *scratch_bytes) {
  step->record = en_record_at(words);
  step->kernel = NULL;
  step->packed = NULL;
  en_decode(image, &step->record, &step->problem);
  if (step->record.kind != IM_KIND_CONVOLUTION) return;
  const kn_convolution *c = &step->problem.convolution;
  step->kernel = kernel_for(c, step->record.fields[IM_CONVOLUTION_KERNEL], options);
  const size_t bytes = step->kernel->packed_bytes(c);
  step->packed = bytes == 0 ? NULL : take(from, bytes + KN_SLACK);
  if (step->packed != NULL) step->kernel->pack(c, step->packed);
  const size_t scratch = aligned(step->kernel->scratch_bytes(c));
  if (scratch > *scratch_bytes) *scratch_bytes = scratch;
}

/* Lays the model out; without memory, only counts. */
static en_model *lay_out(const uint8_t *image, const en_options *options, supply *from) {
  const uint32_t *header = en_header(image);
  const uint32_t count = header[IM_HEADER_OPERATOR_COUNT];
  en_model *model = take(from, sizeof(en_model));
  en_step *steps = take(from, count * sizeof(en_step));
  const uint32_t *words = header + header[IM_HEADER_OPERATOR_OFFSET] / 4;
  size_t scratch_bytes = 0;
  for (uint32_t i = 0; i < count; i++) {
    en_step uncounted;
    prepare_step(image, words, options, from, steps == NULL ? &uncounted : &steps[i], &scratch_bytes);
    words += words[IM_OPERATOR_WORDS];
  }
  if (model != NULL) *model = (en_model){image, kn_operators_for(options->features), steps, (int32_t)count, scratch_bytes};
  return model;
}

size_t en_memory_bytes(const uint8_t *image, const en_options *options) {
  supply counted = {NULL, 0, 0};
  lay_out(image, options, &counted);
  return counted.used;
}

en_result en_prepare(const uint8_t *image, const en_options *options, void *memory, size_t memory_bytes, en_model **model) {
  if ((uintptr_t)memory % KN_ALIGNMENT != 0) return (en_result){EN_MEMORY, 0, ""};
  supply from = {memory, memory_bytes, 0};
  *model = lay_out(image, options, &from);
  return (en_result){from.used > from.size ? EN_MEMORY : EN_OK, 0, ""};
}

size_t en_arena_bytes(const en_model *model) { return aligned(en_header(model->image)[IM_HEADER_ARENA_BYTES] + (size_t)KN_SLACK); }

size_t en_scratch_bytes(const en_model *model) { return model->scratch_bytes; }

int32_t en_operator_count(const en_model *model) { return model->step_count; }

const char *en_kernel_name(const en_model *model, int32_t operator_index) {
  const kn_convolution_kernel *kernel = model->steps[operator_index].kernel;
  return kernel == NULL ? "" : kernel->name;
}

/* One operator while it runs. */
typedef struct {
  const en_model *model;
  const en_step *step;
  const void *first, *second;
  void *output;
  uint8_t *scratch;
  /* Along the axis that parts divide. */
  int32_t size, parts;
} en_job;

/* Work smaller than this many elements is not worth waking a thread for. */
#define SMALLEST_PART 8192

static int32_t parts_for(int32_t size, int64_t elements, const en_host *host) {
  if (host == NULL || host->threads <= 1) return 1;
  const int64_t most = elements / SMALLEST_PART;
  const int32_t wanted = 2 * host->threads;
  const int32_t parts = most < wanted ? (int32_t)most : wanted;
  return parts > size ? size : parts < 1 ? 1 : parts;
}

static int is_codes(const en_model *model, uint32_t tensor) { return en_tensor(model->image, tensor)[IM_TENSOR_TYPE] == IM_TYPE_CODES; }

static void run_part(void *argument, int32_t part, int32_t thread) {
  const en_job *job = argument;
  const en_problem *p = &job->step->problem;
  const kn_operators *k = job->model->operators;
  const int32_t begin = (int32_t)((int64_t)job->size * part / job->parts);
  const int32_t end = (int32_t)((int64_t)job->size * (part + 1) / job->parts);
  switch (job->step->record.kind) {
    case IM_KIND_CONVOLUTION:
      job->step->kernel->run(&p->convolution, job->step->packed, job->first, job->output,
                             job->scratch + (size_t)thread * job->model->scratch_bytes, part);
      break;
    case IM_KIND_ADD:
      k->add(&p->add, job->first, job->second, job->output, begin, end);
      break;
    case IM_KIND_MULTIPLY:
      k->multiply(&p->multiply, job->first, job->second, job->output, begin, end);
      break;
    case IM_KIND_TABLE:
      k->table(p->table, (const uint8_t *)job->first + begin, (uint8_t *)job->output + begin, end - begin);
      break;
    case IM_KIND_MAX_POOL:
      k->max_pool(&p->max_pool, job->first, job->output, begin, end);
      break;
    case IM_KIND_AVERAGE_POOL:
      if (is_codes(job->model, job->step->record.output)) k->average_pool(&p->average_pool, job->first, job->output, begin, end);
      else k->sum_pool(&p->average_pool, job->first, job->output, begin, end);
      break;
    case IM_KIND_COPY:
      k->copy(&p->copy, job->first, job->output, begin, end);
      break;
    case IM_KIND_FILL:
      memset((uint8_t *)job->output + begin, p->fill, (size_t)(end - begin));
      break;
    case IM_KIND_RESIZE:
      k->resize(&p->resize, job->first, job->output, begin, end);
      break;
    case IM_KIND_QUANTIZE:
      k->quantize(&p->quantize, job->first, job->output);
      break;
    case IM_KIND_DEQUANTIZE:
      if (is_codes(job->model, job->step->record.inputs[0])) k->dequantize_codes(&p->dequantize, job->first, job->output);
      else k->dequantize_accumulators(&p->dequantize, job->first, job->output);
      break;
    case IM_KIND_SIGMOID:
      k->sigmoid((const float *)job->first + begin, (float *)job->output + begin, end - begin);
      break;
    default:
      k->softmax(p->softmax.outer, p->softmax.count, p->softmax.inner, job->first, job->output);
  }
}

/* Along which axis an operator is divided, and its size there. */
static int32_t divisible_size(const en_step *step, int64_t elements) {
  switch (step->record.kind) {
    case IM_KIND_ADD:
      return step->problem.add.outer;
    case IM_KIND_MULTIPLY:
      return step->problem.multiply.outer;
    case IM_KIND_TABLE:
    case IM_KIND_FILL:
    case IM_KIND_SIGMOID:
      return (int32_t)elements;
    case IM_KIND_MAX_POOL:
      return step->problem.max_pool.batch * step->problem.max_pool.out_height;
    case IM_KIND_AVERAGE_POOL:
      return step->problem.average_pool.window.batch * step->problem.average_pool.window.out_height;
    case IM_KIND_COPY:
      return step->problem.copy.size[0];
    case IM_KIND_RESIZE:
      return step->problem.resize.batch * step->problem.resize.out_height;
    default:
      return 1;
  }
}

static void *memory_of(const uint32_t *tensor, uint8_t *arena, const float *const *inputs, float *const *outputs) {
  const uint32_t offset = tensor[IM_TENSOR_OFFSET];
  if (tensor[IM_TENSOR_PLACE] == IM_PLACE_ARENA) return arena + offset;
  return tensor[IM_TENSOR_PLACE] == IM_PLACE_INPUT ? (void *)(uintptr_t)inputs[offset] : outputs[offset];
}

void en_run_operator(const en_model *model, int32_t index, void *arena, void *scratch, const float *const *inputs, float *const *outputs,
                     const en_host *host) {
  const en_step *step = &model->steps[index];
  const en_record *r = &step->record;
  const uint32_t *output = en_tensor(model->image, r->output);
  en_job job = {model, step, NULL, NULL, memory_of(output, arena, inputs, outputs), scratch, 1, 1};
  if (r->input_count > 0) job.first = memory_of(en_tensor(model->image, r->inputs[0]), arena, inputs, outputs);
  if (r->input_count > 1) job.second = memory_of(en_tensor(model->image, r->inputs[1]), arena, inputs, outputs);
  if (step->kernel != NULL) {
    job.size = job.parts = step->kernel->tiles(&step->problem.convolution);
  } else {
    job.size = divisible_size(step, output[IM_TENSOR_ELEMENTS]);
    job.parts = parts_for(job.size, output[IM_TENSOR_ELEMENTS], host);
  }
  if (host != NULL && host->threads > 1 && job.parts > 1) {
    host->parallel(host->context, job.parts, run_part, &job);
  } else {
    for (int32_t part = 0; part < job.parts; part++) run_part(&job, part, 0);
  }
}

void en_run(const en_model *model, void *arena, void *scratch, const float *const *inputs, float *const *outputs, const en_host *host) {
  for (int32_t i = 0; i < model->step_count; i++) {
    if (host != NULL && host->before != NULL) host->before(host->context, i);
    en_run_operator(model, i, arena, scratch, inputs, outputs, host);
  }
  if (host != NULL && host->before != NULL) host->before(host->context, model->step_count);
}
