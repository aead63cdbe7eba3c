// Weights packed for kernels that execute them where they lie, by the kernels' own functions. Arguments are checked in packing.ts.
#include "packing.h"

#include <cstring>
#include <vector>

extern "C" {
#include "engine/image.h"
#include "engine/record.h"
}

namespace {

// The kernel that is wanted, or else the first that has a packed form and computes all variants.
const kn_convolution_kernel *KernelFor(const std::vector<kn_convolution> &variants, uint32_t wanted, uint32_t features) {
  const kn_convolution_kernel *chosen = nullptr;
  for (int32_t i = 0; i < kn_convolution_kernel_count; i++) {
    const kn_convolution_kernel *kernel = kn_convolution_kernels[i];
    const bool is_wanted = en_kernel_hash(kernel->name) == wanted;
    if (kernel->layout == 0 || (kernel->features & ~features) != 0 || (chosen != nullptr && !is_wanted)) continue;
    bool suits = true;
    for (const kn_convolution &c : variants) suits = suits && kernel->supports(&c);
    if (suits) chosen = kernel;
    if (suits && is_wanted) break;
  }
  return chosen;
}

// packWeights(fields: Uint32Array, inputBits, weights: Uint8Array, bias: Int32Array, variants: Int32Array, features):
// { kernel: number, layout: number, weightBits: number, bytes: Uint8Array }, or null where no kernel of these features has a packed form for all variants.
// A variant is six numbers: height and width of input and output, padding at the top and at the left.
Napi::Value PackWeights(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  const Napi::Uint32Array fields = info[0].As<Napi::Uint32Array>();
  const Napi::Uint8Array weights = info[2].As<Napi::Uint8Array>();
  const Napi::Int32Array bias = info[3].As<Napi::Int32Array>(), sizes = info[4].As<Napi::Int32Array>();
  const uint32_t features = info[5].As<Napi::Number>().Uint32Value();

  kn_convolution base = en_convolution_of(weights.Data(), fields.Data(), info[1].As<Napi::Number>().Int32Value());
  base.weights = weights.Data();
  base.bias = bias.Data();
  base.multipliers = nullptr;
  base.shifts = nullptr;
  std::vector<kn_convolution> variants;
  for (size_t i = 0; i + 6 <= sizes.ElementLength(); i += 6) {
    kn_convolution c = base;
    c.in_height = sizes[i], c.in_width = sizes[i + 1], c.out_height = sizes[i + 2], c.out_width = sizes[i + 3];
    c.pad_top = sizes[i + 4], c.pad_left = sizes[i + 5];
    variants.push_back(c);
  }
  const uint32_t wanted = fields[IM_CONVOLUTION_KERNEL];
  const kn_convolution_kernel *chosen = KernelFor(variants, wanted, features);
  if (chosen == nullptr && base.weight_bits < 8) {
    // Kernels for few bits keep sums in fewer bits, too, which a large bias may not fit.
    for (kn_convolution &c : variants) c.weight_bits = 8;
    chosen = KernelFor(variants, wanted, features);
  }
  if (chosen == nullptr) return env.Null();
  Napi::Uint8Array bytes = Napi::Uint8Array::New(env, chosen->packed_bytes(&variants[0]));
  std::memset(bytes.Data(), 0, bytes.ByteLength());
  chosen->pack(&variants[0], bytes.Data());
  Napi::Object result = Napi::Object::New(env);
  result.Set("kernel", Napi::Number::New(env, en_kernel_hash(chosen->name)));
  result.Set("layout", Napi::Number::New(env, chosen->layout));
  result.Set("weightBits", Napi::Number::New(env, variants[0].weight_bits));
  result.Set("bytes", bytes);
  return result;
}

}  // namespace

void DefinePacking(Napi::Env env, Napi::Object exports) {
  exports.Set("packWeights", Napi::Function::New(env, PackWeights));
}
