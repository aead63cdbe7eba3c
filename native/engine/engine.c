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

#include "band.h"

_Static_assert(IM_PACKED_SLACK_BYTES == KN_SLACK, "images have what kernels may read");

typedef struct {
  en_record record;
  en_problem problem; /* in the stage, that of whole tensors */
  const kn_convolution_kernel *kernel;
  const void *packed;
} en_step;

struct en_model {
  const uint8_t *image;
  const kn_operators *operators;
  en_step *steps;
  int32_t step_count;
  size_t scratch_bytes;
  en_stage stage;
};

/* Codes that are quantized at once when an input comes in pieces. */
enum { PIECE = 128 };

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

/* A convolution of the image, and the patches that it is for, or its bands; any other has a single variant. */
typedef struct {
  const uint8_t *image;
  const en_stage *stage;
  const en_step *step;
  int32_t is_banded, count;
} en_variants;

static en_variants variants_of(const uint8_t *image, const en_stage *stage, const en_step *step) {
  if (stage != NULL) return (en_variants){image, stage, step, 0, stage->patches};
  const int32_t is_banded = en_is_banded(image, &step->record);
  return (en_variants){image, NULL, step, is_banded, is_banded ? en_band_count(&step->problem.convolution) : 1};
}

static en_problem variant(const en_variants *v, int32_t index) {
  en_problem problem = v->step->problem;
  if (v->stage != NULL) en_cut(v->image, v->stage, &v->step->record, index, &problem);
  else if (v->is_banded) en_cut_band(index, &problem.convolution);
  return problem;
}

/* Weights are packed once, so that in patches and bands only packed forms that are the same for all will do. */
static int suits(const kn_convolution_kernel *kernel, const en_variants *v) {
  if ((v->stage != NULL || v->is_banded) && kernel->layout == 0 && kernel->packed_bytes(&v->step->problem.convolution) != 0) return 0;
  for (int32_t i = 0; i < v->count; i++) {
    const en_problem problem = variant(v, i);
    if (!kernel->supports(&problem.convolution)) return 0;
  }
  return 1;
}

static const kn_convolution_kernel *kernel_for(const en_variants *v, uint32_t wanted, const en_options *options) {
  const kn_convolution_kernel *first = NULL;
  if (options->only_kernel != 0) wanted = options->only_kernel;
  for (int32_t i = 0; i < kn_convolution_kernel_count; i++) {
    const kn_convolution_kernel *kernel = kn_convolution_kernels[i];
    if ((kernel->features & ~options->features) != 0) continue;
    const int is_wanted = wanted != 0 && en_kernel_hash(kernel->name) == wanted;
    if (first != NULL && !is_wanted) continue;
    if (!suits(kernel, v)) continue;
    if (is_wanted || wanted == 0) return kernel;
    first = kernel;
  }
  return first;
}

static void prepare_step(const uint8_t *image, const en_stage *stage, int is_in_stage, const uint32_t *words, const en_options *options,
                         supply *from, en_step *step, size_t *scratch_bytes) {
  step->record = en_record_at(words);
  step->kernel = NULL;
  step->packed = NULL;
  en_decode(image, &step->record, &step->problem);
  if (step->record.kind != IM_KIND_CONVOLUTION) return;
  const kn_convolution *c = &step->problem.convolution;
  const en_variants v = variants_of(image, is_in_stage ? stage : NULL, step);
  const size_t band_bytes = v.is_banded ? en_band_bytes(image, &step->record, c) : 0;
  if (step->record.fields[IM_CONVOLUTION_LAYOUT] != 0) {
    step->kernel = en_packed_kernel(step->record.fields);
    step->packed = c->weights;
  } else {
    step->kernel = kernel_for(&v, step->record.fields[IM_CONVOLUTION_KERNEL], options);
    const size_t bytes = step->kernel->packed_bytes(c);
    void *packed = bytes == 0 ? NULL : take(from, bytes + KN_SLACK);
    if (packed != NULL) step->kernel->pack(c, packed);
    step->packed = packed;
  }
  for (int32_t i = 0; i < v.count; i++) {
    const en_problem problem = variant(&v, i);
    const size_t scratch = band_bytes + aligned(step->kernel->scratch_bytes(&problem.convolution));
    if (scratch > *scratch_bytes) *scratch_bytes = scratch;
  }
}

/* Lays the model out; without memory, only counts. */
static en_model *lay_out(const uint8_t *image, const en_options *options, supply *from) {
  const uint32_t *header = en_header(image);
  const int32_t count = (int32_t)header[IM_HEADER_OPERATOR_COUNT];
  const en_stage stage = en_stage_of(image);
  en_model *model = take(from, sizeof(en_model));
  en_step *steps = take(from, (size_t)count * sizeof(en_step));
  const uint32_t *words = header + header[IM_HEADER_OPERATOR_OFFSET] / 4;
  size_t scratch_bytes = 0;
  for (int32_t i = 0; i < count; i++) {
    en_step uncounted;
    prepare_step(image, &stage, en_is_in_stage(&stage, i), words, options, from, steps == NULL ? &uncounted : &steps[i], &scratch_bytes);
    words += words[IM_OPERATOR_WORDS];
  }
  if (model != NULL) *model = (en_model){image, kn_operators_for(options->features), steps, count, scratch_bytes, stage};
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
  const en_problem *problem; /* of the patch */
  int32_t patch;
  const void *first, *second;
  void *output;
  uint8_t *scratch;
  /* Along the axis that parts divide. */
  int32_t size, parts;
  int32_t is_banded; /* parts are bands */
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
  const en_problem *p = job->problem;
  const kn_operators *k = job->model->operators;
  const int32_t begin = (int32_t)((int64_t)job->size * part / job->parts);
  const int32_t end = (int32_t)((int64_t)job->size * (part + 1) / job->parts);
  switch (job->step->record.kind) {
    case IM_KIND_CONVOLUTION: {
      uint8_t *scratch = job->scratch + (size_t)thread * job->model->scratch_bytes;
      const en_step *s = job->step;
      if (job->is_banded) en_run_band(job->model->image, &s->record, &p->convolution, s->kernel, s->packed, job->first, job->output, scratch, part);
      else s->kernel->run(&p->convolution, s->packed, job->first, job->output, scratch, part);
      break;
    }
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
    case IM_KIND_CROP:
      en_crop(job->model->image, &job->model->stage, &job->step->record, job->patch, job->first, job->output);
      break;
    case IM_KIND_PASTE:
      en_paste(job->model->image, &job->model->stage, &job->step->record, job->patch, job->first, job->output);
      break;
    case IM_KIND_SIGMOID:
      k->sigmoid((const float *)job->first + begin, (float *)job->output + begin, end - begin);
      break;
    default:
      k->softmax(p->softmax.outer, p->softmax.count, p->softmax.inner, job->first, job->output);
  }
}

/* Along which axis an operator is divided, and its size there. */
static int32_t divisible_size(uint32_t kind, const en_problem *problem, int64_t elements) {
  switch (kind) {
    case IM_KIND_ADD:
      return problem->add.outer;
    case IM_KIND_MULTIPLY:
      return problem->multiply.outer;
    case IM_KIND_TABLE:
    case IM_KIND_FILL:
    case IM_KIND_SIGMOID:
      return (int32_t)elements;
    case IM_KIND_MAX_POOL:
      return problem->max_pool.batch * problem->max_pool.out_height;
    case IM_KIND_AVERAGE_POOL:
      return problem->average_pool.window.batch * problem->average_pool.window.out_height;
    case IM_KIND_COPY:
      return problem->copy.size[0];
    case IM_KIND_RESIZE:
      return problem->resize.batch * problem->resize.out_height;
    default:
      return 1;
  }
}

static void *memory_of(const uint32_t *tensor, uint8_t *arena, const float *const *inputs, float *const *outputs) {
  const uint32_t offset = tensor[IM_TENSOR_OFFSET];
  if (tensor[IM_TENSOR_PLACE] == IM_PLACE_ARENA) return arena + offset;
  return tensor[IM_TENSOR_PLACE] == IM_PLACE_INPUT ? (void *)(uintptr_t)inputs[offset] : outputs[offset];
}

static int32_t elements_of(const en_model *model, const uint32_t *tensor, int32_t patch) {
  if (!en_has_regions(tensor)) return (int32_t)tensor[IM_TENSOR_ELEMENTS];
  const en_part part = en_part_of(model->image, &model->stage, tensor, patch);
  return en_length(part.rows) * en_length(part.columns) * part.channels;
}

/* Executes an operator; one of the stage, for a patch. */
static void run_step(const en_model *model, int32_t index, int32_t patch, void *arena, void *scratch, const float *const *inputs,
                     float *const *outputs, const en_host *host) {
  const en_step *step = &model->steps[index];
  const en_record *r = &step->record;
  const uint32_t *output = en_tensor(model->image, r->output);
  en_problem of_patch;
  en_job job = {model, step, &step->problem, patch, NULL, NULL, memory_of(output, arena, inputs, outputs), scratch, 1, 1, 0};
  if (en_is_in_stage(&model->stage, index)) {
    of_patch = step->problem;
    en_cut(model->image, &model->stage, r, patch, &of_patch);
    job.problem = &of_patch;
  }
  if (r->input_count > 0) job.first = memory_of(en_tensor(model->image, r->inputs[0]), arena, inputs, outputs);
  if (r->input_count > 1) job.second = memory_of(en_tensor(model->image, r->inputs[1]), arena, inputs, outputs);
  if (step->kernel != NULL) {
    job.is_banded = en_is_banded(model->image, r);
    job.size = job.parts = job.is_banded ? en_band_count(&job.problem->convolution) : step->kernel->tiles(&job.problem->convolution);
  } else {
    const int32_t elements = elements_of(model, output, patch);
    job.size = divisible_size(r->kind, job.problem, elements);
    job.parts = parts_for(job.size, elements, host);
  }
  if (host != NULL && host->threads > 1 && job.parts > 1) {
    host->parallel(host->context, job.parts, run_part, &job);
  } else {
    for (int32_t part = 0; part < job.parts; part++) run_part(&job, part, 0);
  }
}

static void observe(const en_host *host, int32_t index) {
  if (host != NULL && host->before != NULL) host->before(host->context, index);
}

int32_t en_patch_count(const en_model *model) { return model->stage.patches; }

int32_t en_tail(const en_model *model) { return model->stage.end; }

/* Whether the windows of patches are quantized of an input of the model, which need not lie in memory as a whole. */
static int is_streamed(const en_model *model) {
  return model->stage.patches > 0 && model->steps[model->stage.first].record.kind == IM_KIND_QUANTIZE;
}

static const uint32_t *window_tensor(const en_model *model) {
  return en_tensor(model->image, model->steps[model->stage.first].record.output);
}

int en_window(const en_model *model, int32_t patch, en_window_of_input *window) {
  if (!is_streamed(model)) return 0;
  const uint32_t *regions = en_regions(model->image, window_tensor(model));
  const en_part part = en_part_of(model->image, &model->stage, window_tensor(model), patch);
  *window = (en_window_of_input){regions[IM_REGION_ROWS], regions[IM_REGION_COLUMNS], regions[IM_REGION_CHANNELS],
                                 (uint32_t)part.rows.first, (uint32_t)part.rows.end, (uint32_t)part.columns.first, (uint32_t)part.columns.end};
  return 1;
}

void en_write_input(const en_model *model, int32_t index, int32_t patch, uint32_t offset, const float *values, uint32_t count, void *arena) {
  const en_step *step = &model->steps[index];
  en_problem problem = step->problem;
  if (en_is_in_stage(&model->stage, index)) en_cut(model->image, &model->stage, &step->record, patch, &problem);
  const uint32_t channels = (uint32_t)problem.quantize.channels, inner = (uint32_t)problem.quantize.inner;
  uint8_t *output = (uint8_t *)arena + en_tensor(model->image, step->record.output)[IM_TENSOR_OFFSET], codes[PIECE];
  while (count > 0) {
    const uint32_t row = offset / inner, column = offset % inner;
    /* Of one channel; where a channel has a single element, the order is the same on both sides. */
    const uint32_t stride = inner == 1 ? 1 : channels;
    uint32_t run = inner == 1 ? count : inner - column;
    if (run > count) run = count;
    if (run > PIECE) run = PIECE;
    kn_quantization piece = problem.quantize;
    piece.outer = piece.channels = 1;
    piece.inner = (int32_t)run;
    model->operators->quantize(&piece, values, codes);
    uint8_t *to = inner == 1 ? output + offset : output + ((size_t)(row / channels) * inner + column) * channels + row % channels;
    for (uint32_t i = 0; i < run; i++) to[(size_t)i * stride] = codes[i];
    offset += run, values += run, count -= run;
  }
}

/* Brings the window of a patch out of an input that lies in memory as a whole. */
static void write_window(const en_model *model, int32_t patch, const float *input, void *arena) {
  en_window_of_input w;
  en_window(model, patch, &w);
  const uint32_t width = w.end_column - w.first_column;
  uint32_t offset = 0;
  for (uint32_t channel = 0; channel < w.channels; channel++) {
    for (uint32_t y = w.first_row; y < w.end_row; y++, offset += width)
      en_write_input(model, model->stage.first, patch, offset, input + ((size_t)channel * w.rows + y) * w.columns + w.first_column, width, arena);
  }
}

/* Whether four codes are from `low` to `high`: a bit above each stays where nothing is borrowed from it. */
static int are_within(uint32_t codes, uint32_t low, uint32_t high) {
  const uint32_t above = 0x01000100, even = codes & 0x00FF00FF, odd = codes >> 8 & 0x00FF00FF, lows = low * 0x00010001, highs = high * 0x00010001;
  const uint32_t inside = ((even | above) - lows) & ((odd | above) - lows) & ((highs | above) - even) & ((highs | above) - odd);
  return (inside & above) == above;
}

/* Whether a patch's window has codes beyond the limits, where there are two branches. */
static int is_outlier(const en_model *model, int32_t patch, const uint8_t *arena) {
  const en_stage *stage = &model->stage;
  if (stage->end == stage->plain_end) return 0;
  const uint8_t *codes = arena + window_tensor(model)[IM_TENSOR_OFFSET];
  const int32_t count = elements_of(model, window_tensor(model), patch);
  if (stage->low == 0 && stage->high == 255) return 0;
  int32_t i = 0;
  for (; i + 4 <= count; i += 4) {
    uint32_t four;
    memcpy(&four, codes + i, sizeof four);
    if (!are_within(four, (uint32_t)stage->low, (uint32_t)stage->high)) return 1;
  }
  for (; i < count; i++)
    if (codes[i] < stage->low || codes[i] > stage->high) return 1;
  return 0;
}

void en_run_patch(const en_model *model, int32_t patch, void *arena, void *scratch, const en_host *host) {
  const en_stage *stage = &model->stage;
  if (!is_streamed(model)) {
    observe(host, stage->first);
    run_step(model, stage->first, patch, arena, scratch, NULL, NULL, host);
  }
  const int outlier = is_outlier(model, patch, arena);
  for (int32_t i = outlier ? stage->plain_end : stage->first + 1; i < (outlier ? stage->end : stage->plain_end); i++) {
    observe(host, i);
    run_step(model, i, patch, arena, scratch, NULL, NULL, host);
  }
}

static void run_patches(const en_model *model, void *arena, void *scratch, const float *const *inputs, const en_host *host) {
  const en_record *first = &model->steps[model->stage.first].record;
  for (int32_t patch = 0; patch < model->stage.patches; patch++) {
    if (is_streamed(model)) {
      observe(host, model->stage.first);
      write_window(model, patch, inputs[en_tensor(model->image, first->inputs[0])[IM_TENSOR_OFFSET]], arena);
    }
    en_run_patch(model, patch, arena, scratch, host);
  }
}

void en_run_operator(const en_model *model, int32_t index, void *arena, void *scratch, const float *const *inputs, float *const *outputs,
                     const en_host *host) {
  const int32_t patches = en_is_in_stage(&model->stage, index) ? model->stage.patches : 1;
  for (int32_t patch = 0; patch < patches; patch++) run_step(model, index, patch, arena, scratch, inputs, outputs, host);
}

void en_run_from(const en_model *model, int32_t first, void *arena, void *scratch, const float *const *inputs, float *const *outputs,
                 const en_host *host) {
  for (int32_t i = first; i < model->step_count;) {
    if (en_is_in_stage(&model->stage, i)) {
      run_patches(model, arena, scratch, inputs, host);
      i = model->stage.end;
      continue;
    }
    observe(host, i);
    run_step(model, i, 0, arena, scratch, inputs, outputs, host);
    i++;
  }
  observe(host, model->step_count);
}

void en_run(const en_model *model, void *arena, void *scratch, const float *const *inputs, float *const *outputs, const en_host *host) {
  en_run_from(model, 0, arena, scratch, inputs, outputs, host);
}
