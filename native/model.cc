// The engine for Node: a model made from an image, run off the main thread. Arguments are checked in index.ts.
#include "model.h"

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

#include "thread_pool.h"

extern "C" {
#include "engine/engine.h"
#include "engine/image.h"
}

namespace {

uint32_t MachineFeatures() {
  uint32_t features = 0;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) features |= KN_AVX2;
#elif defined(__aarch64__)
  features |= KN_NEON;
  if ((getauxval(AT_HWCAP) & (1ul << 20)) != 0) features |= KN_DOTPROD;
#endif
  return features;
}

// Memory on a multiple of KN_ALIGNMENT.
class Memory {
 public:
  explicit Memory(size_t bytes) : bytes_(bytes == 0 ? KN_ALIGNMENT : bytes) {
    if (posix_memalign(&data_, KN_ALIGNMENT, bytes_) != 0) throw std::bad_alloc();
    std::memset(data_, 0, bytes_);
  }
  ~Memory() { std::free(data_); }
  Memory(const Memory &) = delete;
  Memory &operator=(const Memory &) = delete;
  void *data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  void *data_ = nullptr;
  size_t bytes_;
};

// Everything that running needs; lives on while a run is under way, whatever happens to the JavaScript object.
struct Model {
  std::unique_ptr<Memory> image, prepared, arena, scratch;
  en_model *model = nullptr;
  std::unique_ptr<ThreadPool> pool;
  // One arena, so one run at a time.
  std::mutex running;
  std::vector<size_t> input_sizes, output_sizes;
};

// When an operator began, or, with the number of operators, when a run ended. One of a stage begins once for each patch.
struct Moment {
  int32_t index;
  int64_t nanoseconds;
};

struct Observation {
  ThreadPool *pool;
  std::vector<Moment> *moments;
};

int64_t Now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void Parallel(void *context, int32_t parts, void (*work)(void *, int32_t, int32_t), void *argument) {
  static_cast<Observation *>(context)->pool->Parallel(parts, work, argument);
}

void Before(void *context, int32_t index) { static_cast<Observation *>(context)->moments->push_back({index, Now()}); }

// Runs a model some times on the same inputs; keeps the outputs of the last run.
class Run : public Napi::AsyncWorker {
 public:
  Run(Napi::Env env, std::shared_ptr<Model> model, int32_t rounds, bool observe)
      : Napi::AsyncWorker(env), deferred_(Napi::Promise::Deferred::New(env)), model_(std::move(model)), rounds_(rounds), observe_(observe) {
    for (size_t elements : model_->output_sizes) outputs_.emplace_back(elements);
  }

  void AddInput(const Napi::Float32Array &values) { inputs_.emplace_back(values.Data(), values.Data() + values.ElementLength()); }
  Napi::Promise Promise() const { return deferred_.Promise(); }

  void Execute() override {
    std::lock_guard<std::mutex> lock(model_->running);
    std::vector<const float *> inputs;
    std::vector<float *> outputs;
    for (const std::vector<float> &input : inputs_) inputs.push_back(input.data());
    for (std::vector<float> &output : outputs_) outputs.push_back(output.data());
    Observation observation{model_->pool.get(), &moments_};
    const en_host host{&observation, model_->pool->threads(), Parallel, observe_ ? Before : nullptr};
    for (int32_t round = 0; round < rounds_; round++)
      en_run(model_->model, model_->arena->data(), model_->scratch->data(), inputs.data(), outputs.data(), &host);
  }

  void OnOK() override {
    Napi::Env env = Env();
    Napi::HandleScope scope(env);
    Napi::Object result = Napi::Object::New(env);
    Napi::Array outputs = Napi::Array::New(env, outputs_.size());
    for (size_t i = 0; i < outputs_.size(); i++) {
      Napi::Float32Array values = Napi::Float32Array::New(env, outputs_[i].size());
      std::memcpy(values.Data(), outputs_[i].data(), outputs_[i].size() * sizeof(float));
      outputs.Set(static_cast<uint32_t>(i), values);
    }
    result.Set("outputs", outputs);
    if (observe_) {
      // Differences of neighbours within a run: one row of operators for each round.
      const size_t operators = static_cast<size_t>(en_operator_count(model_->model));
      Napi::Float64Array times = Napi::Float64Array::New(env, operators * static_cast<size_t>(rounds_));
      std::memset(times.Data(), 0, times.ByteLength());
      double *row = times.Data();
      for (size_t i = 0; i + 1 < moments_.size(); i++) {
        const size_t index = static_cast<size_t>(moments_[i].index);
        if (index == operators) row += operators;
        else row[index] += static_cast<double>(moments_[i + 1].nanoseconds - moments_[i].nanoseconds);
      }
      result.Set("nanoseconds", times);
    }
    deferred_.Resolve(result);
  }

  void OnError(const Napi::Error &error) override { deferred_.Reject(error.Value()); }

 private:
  Napi::Promise::Deferred deferred_;
  std::shared_ptr<Model> model_;
  int32_t rounds_;
  bool observe_;
  std::vector<std::vector<float>> inputs_, outputs_;
  std::vector<Moment> moments_;
};

class ModelHandle : public Napi::ObjectWrap<ModelHandle> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "Model",
                       {InstanceMethod("run", &ModelHandle::DoRun), InstanceMethod("close", &ModelHandle::Close),
                        InstanceAccessor<&ModelHandle::Facts>("facts")});
  }

  // new Model(image: Uint8Array, features: number, onlyKernel: string, threads: number)
  explicit ModelHandle(const Napi::CallbackInfo &info) : Napi::ObjectWrap<ModelHandle>(info), model_(std::make_shared<Model>()) {
    const Napi::Uint8Array bytes = info[0].As<Napi::Uint8Array>();
    const std::string kernel = info[2].As<Napi::String>();
    const en_options options{info[1].As<Napi::Number>().Uint32Value() & MachineFeatures(), kernel.empty() ? 0 : en_kernel_hash(kernel.c_str())};
    const int32_t threads = info[3].As<Napi::Number>().Int32Value();
    Model &m = *model_;
    try {
      m.image = std::make_unique<Memory>(bytes.ByteLength());
      std::memcpy(m.image->data(), bytes.Data(), bytes.ByteLength());
      const uint8_t *image = static_cast<const uint8_t *>(m.image->data());
      en_result result = en_check(image, bytes.ByteLength());
      if (result.status == EN_OK) {
        m.prepared = std::make_unique<Memory>(en_memory_bytes(image, &options));
        result = en_prepare(image, &options, m.prepared->data(), m.prepared->bytes(), &m.model);
      }
      if (result.status != EN_OK) {
        Napi::Error error = Napi::Error::New(info.Env(), result.what);
        error.Set("status", Napi::Number::New(info.Env(), result.status));
        error.Set("index", Napi::Number::New(info.Env(), result.index));
        throw error;
      }
      m.arena = std::make_unique<Memory>(en_arena_bytes(m.model));
      m.scratch = std::make_unique<Memory>(en_scratch_bytes(m.model) * static_cast<size_t>(threads));
      m.pool = std::make_unique<ThreadPool>(threads);
      const uint32_t *header = reinterpret_cast<const uint32_t *>(image);
      const uint32_t *tensor = header + header[IM_HEADER_TENSOR_OFFSET] / 4;
      for (uint32_t i = 0; i < header[IM_HEADER_TENSOR_COUNT]; i++, tensor += IM_TENSOR_RECORD_WORDS) {
        if (tensor[IM_TENSOR_PLACE] == IM_PLACE_INPUT) m.input_sizes.push_back(tensor[IM_TENSOR_ELEMENTS]);
        if (tensor[IM_TENSOR_PLACE] == IM_PLACE_OUTPUT) m.output_sizes.push_back(tensor[IM_TENSOR_ELEMENTS]);
      }
    } catch (const std::bad_alloc &) {
      throw Napi::Error::New(info.Env(), "there is not enough memory for the model");
    }
  }

 private:
  // { kernels: string[], inputs: number[], outputs: number[], preparedBytes, arenaBytes, scratchBytes }; null once closed.
  Napi::Value Facts(const Napi::CallbackInfo &info) {
    Napi::Env env = info.Env();
    if (!model_) return env.Null();
    const Model &m = *model_;
    Napi::Object facts = Napi::Object::New(env);
    const int32_t count = en_operator_count(m.model);
    Napi::Array kernels = Napi::Array::New(env, static_cast<size_t>(count));
    for (int32_t i = 0; i < count; i++) kernels.Set(static_cast<uint32_t>(i), en_kernel_name(m.model, i));
    facts.Set("kernels", kernels);
    facts.Set("inputs", Sizes(env, m.input_sizes));
    facts.Set("outputs", Sizes(env, m.output_sizes));
    facts.Set("preparedBytes", Napi::Number::New(env, static_cast<double>(m.prepared->bytes())));
    facts.Set("arenaBytes", Napi::Number::New(env, static_cast<double>(m.arena->bytes())));
    facts.Set("scratchBytes", Napi::Number::New(env, static_cast<double>(m.scratch->bytes())));
    return facts;
  }

  static Napi::Array Sizes(Napi::Env env, const std::vector<size_t> &sizes) {
    Napi::Array array = Napi::Array::New(env, sizes.size());
    for (size_t i = 0; i < sizes.size(); i++) array.Set(static_cast<uint32_t>(i), Napi::Number::New(env, static_cast<double>(sizes[i])));
    return array;
  }

  // run(inputs: Float32Array[], rounds: number, observe: boolean): Promise<{ outputs, nanoseconds? }>
  Napi::Value DoRun(const Napi::CallbackInfo &info) {
    const Napi::Array inputs = info[0].As<Napi::Array>();
    // Queue() hands the worker over to Node, which deletes it.
    Run *run = new Run(info.Env(), model_, info[1].As<Napi::Number>().Int32Value(), info[2].As<Napi::Boolean>().Value());
    for (uint32_t i = 0; i < inputs.Length(); i++) run->AddInput(inputs.Get(i).As<Napi::Float32Array>());
    run->Queue();
    return run->Promise();
  }

  // Memory goes when the last run under way has ended.
  Napi::Value Close(const Napi::CallbackInfo &info) {
    model_.reset();
    return info.Env().Undefined();
  }

  std::shared_ptr<Model> model_;
};

// What this machine and this build can do: { features: number, kernels: [{ name, features }] }
Napi::Value Catalogue(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  Napi::Object catalogue = Napi::Object::New(env);
  catalogue.Set("features", Napi::Number::New(env, MachineFeatures()));
  Napi::Array kernels = Napi::Array::New(env);
  for (int32_t i = 0; i < kn_convolution_kernel_count; i++) {
    Napi::Object kernel = Napi::Object::New(env);
    kernel.Set("name", kn_convolution_kernels[i]->name);
    kernel.Set("features", Napi::Number::New(env, kn_convolution_kernels[i]->features));
    kernels.Set(static_cast<uint32_t>(i), kernel);
  }
  catalogue.Set("kernels", kernels);
  return catalogue;
}

}  // namespace

void DefineModel(Napi::Env env, Napi::Object exports) {
  exports.Set("Model", ModelHandle::Define(env));
  exports.Set("catalogue", Napi::Function::New(env, Catalogue));
}
