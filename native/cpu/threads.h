// A small pool of threads: a region of work is a row of units; each thread owns a contiguous run of them, and the
// caller waits until all are done.
//
// Thread i begins at the front of run i, so that the same weights meet the same cache in every step; who has nothing left
// takes pieces from the back of the others' runs. So a thread that the system runs late or interrupts holds up one piece
// and no more: on a busy machine two threads are then never slower than one. Results do not depend on who does what.
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

// The part of [0, count) that falls to `number` of `parts`: contiguous, sizes differing by at most one.
struct Share {
  size_t begin, end;
};
inline Share share(size_t count, size_t number, size_t parts) {
  return {count * number / parts, count * (number + 1) / parts};
}

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

  // Calls f(begin, end) for pieces of at most `piece` units that together are [0, count), each unit exactly once, and
  // returns when all calls have returned. `count` below 2^32.
  template <class F>
  void run_pieces(size_t count, size_t piece, const F &f) {
    if (num_threads_ < 2 || count < 2) return count == 0 ? void() : f(size_t{0}, count);
    function_ = [](const void *context, size_t begin, size_t end) { (*static_cast<const F *>(context))(begin, end); };
    context_ = &f;
    piece_.store(static_cast<uint32_t>(piece), std::memory_order_relaxed);
    num_left_.store(static_cast<uint32_t>(count), std::memory_order_relaxed);
    for (uint32_t i = 0; i < num_threads_; ++i) {
      const auto [begin, end] = share(count, i, num_threads_);
      std::atomic_ref<uint64_t>(seats_[i].left).store(begin << 32 | end, std::memory_order_release);
    }
    announce();
    take_pieces(0);
    for (Patience patience;;) {
      const uint32_t left = num_left_.load(std::memory_order_acquire);
      if (left == 0) return;
      if (patience.lasts()) continue;
      caller_asleep_.store(true);
      wait(num_left_, left);
      caller_asleep_.store(false);
    }
  }

  // f(share) for every share in [0, size()): for work that is cut by hand or needs memory of its own.
  template <class F>
  void run(const F &f) {
    run_pieces(num_threads_, 1, [&](size_t begin, size_t end) {
      for (size_t share = begin; share < end; ++share) f(static_cast<uint32_t>(share));
    });
  }

 private:
  struct Seat {
    Threads *pool;
    uint32_t number;
    pthread_t thread;
    uint64_t left;   // begin << 32 | end of the run that nobody has begun; touched by atomic operations only
    char apart[64];  // threads that change their own seat do not disturb each other's cache
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
      take_pieces(number);
    }
  }

  // Takes pieces until there are none, those of run `first` first. One who comes late, out of an earlier region, sees
  // empty runs, or joins the region under way: the caller cannot leave before a piece that was taken is done, so
  // function and context are that region's once the exchange has succeeded.
  void take_pieces(uint32_t first) {
    for (uint32_t i = 0; i < num_threads_; ++i) {
      std::atomic_ref<uint64_t> run(seats_[first + i < num_threads_ ? first + i : first + i - num_threads_].left);
      for (uint64_t left = run.load(std::memory_order_acquire);;) {
        const uint64_t begin = left >> 32, end = left & UINT32_MAX;
        if (begin >= end) break;
        const uint64_t wished = piece_.load(std::memory_order_relaxed);  // a late one may see the last region's: as good
        const uint64_t piece = wished < end - begin ? wished : end - begin;
        const uint64_t rest = i == 0 ? (begin + piece) << 32 | end : begin << 32 | (end - piece);
        if (!run.compare_exchange_weak(left, rest, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
        if (i == 0) function_(context_, begin, begin + piece);
        else function_(context_, end - piece, end);
        if (num_left_.fetch_sub(static_cast<uint32_t>(piece)) == piece && caller_asleep_.load()) wake(num_left_);
        left = run.load(std::memory_order_acquire);
      }
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
  void (*function_)(const void *, size_t, size_t) = nullptr;
  const void *context_ = nullptr;
  std::atomic<uint32_t> piece_{1};
  std::atomic<bool> is_stopping_{false};
  alignas(64) std::atomic<uint32_t> round_{0};
  alignas(64) std::atomic<uint32_t> num_left_{0};
  alignas(64) std::atomic<uint32_t> num_asleep_{0};
  std::atomic<bool> caller_asleep_{false};
};

}  // namespace thaloom
