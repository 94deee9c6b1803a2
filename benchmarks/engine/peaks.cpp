// What this machine can do at most, for the rooflines of the table: bytes that one thread reads from memory, and
// operations per second of one thread in the widest instructions it has for whole numbers, bf16 and f32.
// Each function works for about `seconds` and returns operations (or bytes) per second. A multiply-add is two.

#include <chrono>
#include <cstdint>

namespace {

using Clock = std::chrono::steady_clock;

// Runs `some`, which does `amount` of work, for at least `seconds`: work per second.
template <class Some>
double rate(double seconds, double amount, Some some) {
  const auto begin = Clock::now();
  double done = 0, spent = 0;
  do {
    some();
    done += amount;
    spent = std::chrono::duration<double>(Clock::now() - begin).count();
  } while (spent < seconds);
  return done / spent;
}

constexpr int kRepeats = 4096;

// One instruction on twelve accumulators in turn, more than its latency times issue width asks for, by fixed registers:
// the compiler would keep an array of accumulators on the stack. All operands are zero: no denormal slows them down.
#define TO(instruction, width, number) instruction " %%" width "0, %%" width "0, %%" width number "\n\t"
#define TWELVE(instruction, width)                                                                                \
  for (int repeat = 0; repeat < kRepeats; ++repeat)                                                               \
  asm volatile("vpxor %%xmm0, %%xmm0, %%xmm0\n\t" TO(instruction, width, "4") TO(instruction, width, "5")         \
                   TO(instruction, width, "6") TO(instruction, width, "7") TO(instruction, width, "8")            \
                       TO(instruction, width, "9") TO(instruction, width, "10") TO(instruction, width, "11")      \
                           TO(instruction, width, "12") TO(instruction, width, "13") TO(instruction, width, "14") \
                               TO(instruction, width, "15")::                                                     \
                   : "xmm0", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13",  \
                     "xmm14", "xmm15")
#define PEAK(instruction, width, operations) \
  rate(seconds, 12.0 * kRepeats * (operations), [] { TWELVE(instruction, width); })

}  // namespace

extern "C" {

double peak_read(const uint8_t* data, uint64_t num_bytes, double seconds) {
  constexpr uint64_t kPiece = 1 << 20;  // looks at the clock once for each
  uint64_t at = 0;
  return rate(seconds, kPiece, [&] {
    if (at + kPiece > num_bytes) at = 0;
    for (const uint8_t *line = data + at, *end = line + kPiece; line < end; line += 64) {
#if defined(__AVX512F__)
      asm volatile("vmovdqu64 %0, %%zmm0" ::"m"(*(const uint8_t(*)[64])line) : "xmm0");
#elif defined(__x86_64__)
      asm volatile("movdqu %0, %%xmm0" ::"m"(*(const uint8_t(*)[64])line) : "xmm0");
#else
      asm volatile("" ::"r"(*(const volatile uint64_t*)line));
#endif
    }
    at += kPiece;
  });
}

double peak_i8([[maybe_unused]] double seconds) {
#if defined(__AVX512VNNI__)
  return PEAK("vpdpbusd", "zmm", 128);
#elif defined(__AVXVNNI__)
  return PEAK("{vex} vpdpbusd", "ymm", 64);
#else
  return 0;
#endif
}

double peak_bf16([[maybe_unused]] double seconds) {
#if defined(__AVX512BF16__)
  return PEAK("vdpbf16ps", "zmm", 64);
#else
  return 0;
#endif
}

double peak_f32([[maybe_unused]] double seconds) {
#if defined(__AVX512F__)
  return PEAK("vfmadd231ps", "zmm", 32);
#elif defined(__FMA__)
  return PEAK("vfmadd231ps", "ymm", 16);
#else
  return 0;
#endif
}
}
