// Layer-wise rounding for Node, off the main thread. Arguments are checked in index.ts.
#include "rounding.h"

#include <algorithm>
#include <new>
#include <vector>

#include "rounding/rounding.h"

namespace {

class Rounding : public Napi::AsyncWorker {
 public:
  Rounding(Napi::Env env, int32_t threads) : Napi::AsyncWorker(env), deferred_(Napi::Promise::Deferred::New(env)), threads_(threads) {}

  // Keeps a typed array where it is until the work is done, and answers where that is.
  template <typename T>
  const T *Keep(const Napi::Value &value) {
    const auto array = value.As<Napi::TypedArrayOf<T>>();
    kept_.push_back(Napi::Persistent(value.As<Napi::Object>()));
    return array.Data();
  }

  Napi::Promise Promise() const { return deferred_.Promise(); }

  void Execute() override {
    try {
      ThreadPool pool(threads_);
      codes_.resize(layer.groups * layer.rows * layer.window.Inner());
      scales_.resize(layer.groups * layer.rows);
      rounding::RoundLayer(layer, pool, codes_.data(), scales_.data());
    } catch (const std::bad_alloc &) {
      SetError("there is not enough memory to round this operator's weights");
    }
  }

  void OnOK() override {
    Napi::Env env = Env();
    Napi::HandleScope scope(env);
    Napi::Int8Array codes = Napi::Int8Array::New(env, codes_.size());
    std::copy(codes_.begin(), codes_.end(), codes.Data());
    Napi::Float32Array scales = Napi::Float32Array::New(env, scales_.size());
    std::copy(scales_.begin(), scales_.end(), scales.Data());
    Napi::Object result = Napi::Object::New(env);
    result.Set("codes", codes);
    result.Set("scales", scales);
    deferred_.Resolve(result);
  }

  void OnError(const Napi::Error &error) override { deferred_.Reject(error.Value()); }

  rounding::Layer layer{};

 private:
  Napi::Promise::Deferred deferred_;
  int32_t threads_;
  std::vector<Napi::ObjectReference> kept_;
  std::vector<int8_t> codes_;
  std::vector<float> scales_;
};

// roundLayer(layer, threads): Promise<{ codes: Int8Array, scales: Float32Array }>
Napi::Value RoundLayer(const Napi::CallbackInfo &info) {
  const Napi::Object given = info[0].As<Napi::Object>();
  // Queue() hands the worker over to Node, which deletes it.
  Rounding *work = new Rounding(info.Env(), info[1].As<Napi::Number>().Int32Value());
  rounding::Layer &layer = work->layer;
  const auto number = [](const Napi::Object &object, const char *name) { return object.Get(name).As<Napi::Number>().DoubleValue(); };
  const auto size = [&](const Napi::Object &object, const char *name) { return static_cast<size_t>(number(object, name)); };
  const Napi::Object window = given.Get("window").As<Napi::Object>();
  layer.window = {size(window, "channelsPerGroup"), size(window, "inHeight"),     size(window, "inWidth"),     size(window, "channelStride"),
                  size(window, "rowStride"),        size(window, "columnStride"), size(window, "outHeight"),   size(window, "outWidth"),
                  size(window, "kernelHeight"),     size(window, "kernelWidth"),  size(window, "strideY"),     size(window, "strideX"),
                  size(window, "dilationY"),        size(window, "dilationX"),    static_cast<int64_t>(number(window, "padTop")),
                  static_cast<int64_t>(number(window, "padLeft"))};
  layer.groups = size(given, "groups");
  layer.rows = size(given, "rows");
  layer.weights = work->Keep<float>(given.Get("weights"));
  const Napi::Array codes = given.Get("codes").As<Napi::Array>();
  for (uint32_t i = 0; i < codes.Length(); i++) layer.codes.push_back(work->Keep<uint8_t>(codes.Get(i)));
  const Napi::Array references = given.Get("references").As<Napi::Array>();
  for (uint32_t i = 0; i < references.Length(); i++) layer.references.push_back(work->Keep<float>(references.Get(i)));
  layer.scale = static_cast<float>(number(given, "scale"));
  layer.zero = static_cast<int32_t>(number(given, "zero"));
  layer.limit = static_cast<int32_t>(number(given, "limit"));
  layer.least_scales = work->Keep<float>(given.Get("leastScales"));
  layer.damping = static_cast<float>(number(given, "damping"));
  layer.target_damping = static_cast<float>(number(given, "targetDamping"));
  const Napi::Float32Array factors = given.Get("factors").As<Napi::Float32Array>();
  layer.factors.assign(factors.Data(), factors.Data() + factors.ElementLength());
  layer.sweeps = static_cast<int32_t>(number(given, "sweeps"));
  layer.positions = size(given, "positions");
  work->Queue();
  return work->Promise();
}

}  // namespace

void DefineRounding(Napi::Env env, Napi::Object exports) { exports.Set("roundLayer", Napi::Function::New(env, RoundLayer)); }
