// Threads that wait for work between the operators of a model.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

// One caller at a time; the caller is thread 0 and works too.
class ThreadPool {
 public:
  using Work = void (*)(void *argument, int32_t part, int32_t thread);

  explicit ThreadPool(int32_t threads) {
    for (int32_t thread = 1; thread < threads; thread++) threads_.emplace_back([this, thread] { Loop(thread); });
  }

  ~ThreadPool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    for (std::thread &thread : threads_) thread.join();
  }

  int32_t threads() const { return static_cast<int32_t>(threads_.size()) + 1; }

  void Parallel(int32_t parts, Work work, void *argument) {
    work_ = work;
    argument_ = argument;
    parts_ = parts;
    next_.store(0, std::memory_order_relaxed);
    busy_.store(static_cast<int32_t>(threads_.size()), std::memory_order_relaxed);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    Take(0);
    for (int spins = 0; busy_.load(std::memory_order_acquire) != 0; spins++)
      if (spins > kSpins) std::this_thread::yield();
  }

 private:
  // Operators follow each other within microseconds: looking a while for the next is cheaper than sleeping and waking.
  static constexpr int kSpins = 2000;

  void Take(int32_t thread) {
    for (int32_t part; (part = next_.fetch_add(1, std::memory_order_relaxed)) < parts_;) work_(argument_, part, thread);
  }

  void Loop(int32_t thread) {
    uint32_t seen = 0;
    for (;;) {
      for (int spins = 0; spins < kSpins && generation_.load(std::memory_order_acquire) == seen; spins++) std::atomic_signal_fence(std::memory_order_seq_cst);
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load(std::memory_order_acquire) != seen; });
        seen = generation_.load(std::memory_order_acquire);
        if (stopping_) return;
      }
      Take(thread);
      busy_.fetch_sub(1, std::memory_order_release);
    }
  }

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<uint32_t> generation_{0};
  std::atomic<int32_t> next_{0};
  std::atomic<int32_t> busy_{0};
  int32_t parts_ = 0;
  Work work_ = nullptr;
  void *argument_ = nullptr;
  bool stopping_ = false;
};
