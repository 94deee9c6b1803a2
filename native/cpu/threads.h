// A small pool of threads: a region of work is cut into as many shares as there are threads, and the caller waits
// until all shares are done.
//
// Thread i takes share i first, so that the same weights meet the same cache in every step; who has nothing left takes
// shares that nobody has begun. So a thread that the system runs late never holds up a region it has not entered: on
// a busy machine two threads are then never slower than one. Results do not depend on who does a share.
//
// A step is a train of short regions, so a thread that finds nothing to do spins for a while before it sleeps.
#pragma once

#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdint>

#include "array.h"

namespace thaloom {

class Threads {
 public:
  Threads() = default;
  Threads(const Threads &) = delete;
  Threads &operator=(const Threads &) = delete;
  ~Threads() { stop(); }

  // False if the system gives fewer; those that were started are ended again.
  bool start(uint32_t count) {
    num_threads_ = count;
    if (count < 2) return true;
    if (!seats_.allocate(count)) return false;
    sigset_t all, before;  // signals are the interpreter's: none may land on these threads
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (uint32_t i = 1; i < count; ++i) {
      seats_[i].pool = this;
      seats_[i].number = i;
      if (pthread_create(&seats_[i].thread, nullptr, &Threads::enter, &seats_[i]) != 0) break;
      ++num_started_;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (num_started_ == count - 1) return true;
    stop();
    return false;
  }

  void stop() {
    if (num_started_ == 0) return;
    is_stopping_.store(true);
    announce();
    for (uint32_t i = 1; i <= num_started_; ++i) pthread_join(seats_[i].thread, nullptr);
    num_started_ = 0;
  }

  // After a fork the threads are not here any more: forget them, so that nothing waits for them.
  void abandon() { num_started_ = 0; }

  uint32_t size() const { return num_threads_; }

  // Runs f(share) for every share in [0, size()), each exactly once, and returns when all have returned.
  template <class F>
  void run(const F &f) {
    if (num_threads_ < 2) return f(0u);
    function_ = [](const void *context, uint32_t share) { (*static_cast<const F *>(context))(share); };
    context_ = &f;
    num_left_.store(num_threads_, std::memory_order_relaxed);
    announce();
    take_shares(round_.load(std::memory_order_relaxed), 0);
    for (Patience patience;;) {
      const uint32_t left = num_left_.load(std::memory_order_acquire);
      if (left == 0) return;
      if (patience.lasts()) continue;
      caller_asleep_.store(true);
      wait(num_left_, left);
      caller_asleep_.store(false);
    }
  }

 private:
  struct Seat {
    Threads *pool;
    uint32_t number;
    pthread_t thread;
    uint32_t claimed;  // the last round in which this share was taken; touched by atomic operations only
  };

  // Spins for about 50 microseconds, then is at an end.
  class Patience {
   public:
    bool lasts() {
      for (int i = 0; i < 16; ++i) pause();
      timespec now;
      clock_gettime(CLOCK_MONOTONIC, &now);
      const int64_t now_ns = now.tv_sec * int64_t{1000000000} + now.tv_nsec;
      if (until_ns_ == 0) until_ns_ = now_ns + 50000;
      return now_ns < until_ns_;
    }

   private:
    static void pause() {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#elif defined(__aarch64__)
      asm volatile("yield");
#endif
    }
    int64_t until_ns_ = 0;
  };

  static void *enter(void *seat) {
    static_cast<Seat *>(seat)->pool->work(static_cast<Seat *>(seat)->number);
    return nullptr;
  }

  void work(uint32_t number) {
    for (uint32_t seen = 0;;) {
      for (Patience patience; round_.load(std::memory_order_acquire) == seen;) {
        if (patience.lasts()) continue;
        num_asleep_.fetch_add(1);
        wait(round_, seen);
        num_asleep_.fetch_sub(1);
      }
      seen = round_.load(std::memory_order_acquire);
      if (is_stopping_.load()) return;
      take_shares(seen, number);
    }
  }

  // Does what is left of `round`, beginning with share `first`. A claim succeeds only while its round is under way:
  // the caller cannot leave before the claimed share is done, so function and context are still that round's.
  void take_shares(uint32_t round, uint32_t first) {
    for (uint32_t i = 0; i < num_threads_; ++i) {
      const uint32_t share = first + i < num_threads_ ? first + i : first + i - num_threads_;
      std::atomic_ref<uint32_t> claimed(seats_[share].claimed);
      uint32_t before = round - 1;
      if (!claimed.compare_exchange_strong(before, round)) continue;
      function_(context_, share);
      if (num_left_.fetch_sub(1) == 1 && caller_asleep_.load()) wake(num_left_);
    }
  }

  // The order of the two sequentially consistent operations here, and of those around `wait` above, is what makes a
  // lost wake-up impossible: either we see the sleeper, or it sees the new round and does not sleep.
  void announce() {
    round_.fetch_add(1);
    if (num_asleep_.load() != 0) wake(round_);
  }

  static void wait(std::atomic<uint32_t> &word, uint32_t value) {
    syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
  }
  static void wake(std::atomic<uint32_t> &word) {
    syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
  }

  Array<Seat> seats_;
  uint32_t num_threads_ = 1;
  uint32_t num_started_ = 0;
  void (*function_)(const void *, uint32_t) = nullptr;
  const void *context_ = nullptr;
  std::atomic<bool> is_stopping_{false};
  alignas(64) std::atomic<uint32_t> round_{0};
  alignas(64) std::atomic<uint32_t> num_left_{0};
  alignas(64) std::atomic<uint32_t> num_asleep_{0};
  std::atomic<bool> caller_asleep_{false};
};

// The part of [0, count) that falls to `number` of `parts`: contiguous, sizes differing by at most one.
struct Share {
  size_t begin, end;
};
inline Share share(size_t count, size_t number, size_t parts) {
  return {count * number / parts, count * (number + 1) / parts};
}

}  // namespace thaloom
