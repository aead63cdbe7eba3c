/*
 * Where a model meets its caller: floats in, floats out. Compiled without contraction of a * b + c, so that all machines agree. Included by
 * the builds of operators, one for each instruction set.
 */
#include "../kernels.h"
#include "../requantize.h"

/* floor(v) for |v| below 2^31. */
static int32_t floor_of(float v) {
  const int32_t whole = (int32_t)v;
  return whole - ((float)whole > v);
}

/* Elements of one channel that are rounded before the channels are put beside each other. */
enum { RUN = 256 };

/* codes[i] = the code of input[i]. */

#ifndef KN_OWN_ROUND
static void round_run(const kn_quantization *q, const float *input, int32_t count, uint8_t *codes) {
  const float inverse_scale = q->inverse_scale;
  const int32_t zero = q->zero, low = q->low, high = q->high;
  for (int32_t i = 0; i < count; i++) {
    const float x = input[i] * inverse_scale + 0.5f;
    /* Beyond any code, and what an int32 can hold. Written so that NaN takes the low end. */
    const float above = x > -1024.0f ? x : -1024.0f;
    const float within = above < 1024.0f ? above : 1024.0f;
    codes[i] = (uint8_t)kn_clamp(floor_of(within) + zero, low, high);
  }
}
#endif

static void quantize(const kn_quantization *q, const float *input, uint8_t *output) {
  const int32_t channels = q->channels;
  uint8_t codes[RUN];
  for (int32_t outer = 0; outer < q->outer; outer++) {
    const float *from = input + (size_t)outer * channels * q->inner;
    uint8_t *to = output + (size_t)outer * channels * q->inner;
    for (int32_t first = 0; first < q->inner; first += RUN) {
      const int32_t count = q->inner - first < RUN ? q->inner - first : RUN;
      for (int32_t c = 0; c < channels; c++) {
        round_run(q, from + (size_t)c * q->inner + first, count, codes);
        uint8_t *pixel = to + (size_t)first * channels + c;
        for (int32_t i = 0; i < count; i++) pixel[(size_t)i * channels] = codes[i];
      }
    }
  }
}

static float clamp_float(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

static void dequantize_codes(const kn_dequantization *d, const uint8_t *input, float *output) {
  for (int32_t outer = 0; outer < d->outer; outer++) {
    const size_t start = (size_t)outer * d->channels * d->inner;
    for (int32_t c = 0; c < d->channels; c++) {
      const float scale = d->scales[d->scale_count == 1 ? 0 : c];
      for (int32_t i = 0; i < d->inner; i++)
        output[start + (size_t)c * d->inner + i] =
            clamp_float((float)(input[start + (size_t)i * d->channels + c] - d->zero) * scale, d->low, d->high);
    }
  }
}

static void dequantize_accumulators(const kn_dequantization *d, const int32_t *input, float *output) {
  for (int32_t outer = 0; outer < d->outer; outer++) {
    const size_t start = (size_t)outer * d->channels * d->inner;
    for (int32_t c = 0; c < d->channels; c++) {
      const float scale = d->scales[d->scale_count == 1 ? 0 : c];
      for (int32_t i = 0; i < d->inner; i++)
        output[start + (size_t)c * d->inner + i] =
            clamp_float((float)input[start + (size_t)i * d->channels + c] * scale, d->low, d->high);
    }
  }
}

/* e^x for x <= 0: 2^n (1 + f + ...), by the Taylor series of e^r, |r| <= ln(2) / 2, to the seventh power. */
static float exp_of(float x) {
  if (!(x > -87.0f)) return 0.0f;
  const int32_t n = floor_of(x * 1.44269504f + 0.5f);
  const float r = (x - (float)n * 0.693359375f) - (float)n * -2.12194440e-4f;
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  union {
    uint32_t bits;
    float value;
  } power = {(uint32_t)(n + 127) << 23};
  return p * power.value;
}

static void softmax(int32_t outer, int32_t count, int32_t inner, const float *input, float *output) {
  for (int32_t o = 0; o < outer; o++) {
    for (int32_t i = 0; i < inner; i++) {
      const float *from = input + (size_t)o * count * inner + i;
      float *to = output + (size_t)o * count * inner + i;
      float highest = from[0];
      for (int32_t k = 1; k < count; k++) highest = from[(size_t)k * inner] > highest ? from[(size_t)k * inner] : highest;
      float sum = 0.0f;
      for (int32_t k = 0; k < count; k++) sum += to[(size_t)k * inner] = exp_of(from[(size_t)k * inner] - highest);
      for (int32_t k = 0; k < count; k++) to[(size_t)k * inner] /= sum;
    }
  }
}

static void sigmoid(const float *input, float *output, int32_t count) {
  for (int32_t i = 0; i < count; i++) {
    const float e = exp_of(input[i] < 0.0f ? input[i] : -input[i]);
    output[i] = (input[i] < 0.0f ? e : 1.0f) / (1.0f + e);
  }
}
