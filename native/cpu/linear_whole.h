// Tiles over matrices in whole numbers.
//
// The chain of every output, for each 32 inputs in order: their exact dot product in whole numbers, made a float, which
// is exact too (it is below 2^24), then
//   int8         sum = fma(dot, scale of the activations, sum), and the scale of the row last of all
//   int8_groups  the same with both scales multiplied first, rounded once; int8_split the very same
//   int4         part = fma(dot, scale of the weights, part); after 64 inputs sum = fma(part, scale of the activations, sum)
// Builds with a dot product of bytes, with products of 16 bits and with neither find the same whole numbers, so only the
// rounding of fma tells them apart.
#pragma once

#include "tiles.h"
#include "whole.h"

namespace thaloom {

#if defined(__SANITIZE_ADDRESS__)  // every access is checked, so every shape of tile costs seconds to compile
inline constexpr int kMostWholeSums = 2 * kVectors;
#else
inline constexpr int kMostWholeSums = 16;
#endif

// Four inputs, the same in every lane, as products take them.
#if defined(__AVX512VNNI__)
using Four = const int8_t *;  // which the product reads by itself
THALOOM_INLINE Four four_at(const int8_t *p) { return p; }
#else
using Four = Bits;
THALOOM_INLINE Four four_at(const int8_t *p) { return broadcast_bits(p); }
#endif

// dot_bytes(acc, w, x): acc + four products of an unsigned byte of `w` and a signed one of `x`, in each lane.
#if defined(__AVX512VNNI__)
// By hand, for no compiler folds the load: one instruction less for each product is 3 to 10 % of a step of many rows.
THALOOM_INLINE Ints dot_bytes(Ints acc, Bits w, Four x) {
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(w), "m"(*reinterpret_cast<const int8_t(*)[4]>(x)));
  return acc;
}
inline constexpr int kWholeSums = 12;  // vectors of sums a tile keeps, with as many of floats beside them
#elif defined(__AVXVNNI__)
THALOOM_INLINE Ints dot_bytes(Ints acc, Bits w, Bits x) {
  return reinterpret_cast<Ints>(_mm256_dpbusd_avx_epi32(reinterpret_cast<__m256i>(acc), reinterpret_cast<__m256i>(w),
                                                        reinterpret_cast<__m256i>(x)));
}
inline constexpr int kWholeSums = 12;
#elif defined(__SSSE3__) && !defined(__AVX512F__)
#define THALOOM_PRODUCTS_OF_16_BITS
inline constexpr int kWholeSums = 8;
#elif defined(__aarch64__)
#if defined(__ARM_FEATURE_MATMUL_INT8)
THALOOM_INLINE Ints dot_bytes(Ints acc, Bits w, Bits x) {
  return reinterpret_cast<Ints>(vusdotq_s32(reinterpret_cast<int32x4_t>(acc), reinterpret_cast<uint8x16_t>(w),
                                            reinterpret_cast<int8x16_t>(x)));
}
#else
// The same of two signed bytes. Without an instruction for it, two products fit into 16 bits: 128 * 127 * 2 = 32512.
THALOOM_INLINE Ints dot_signed(Ints acc, Bits w, Bits x) {
  const auto a = reinterpret_cast<int8x16_t>(w), b = reinterpret_cast<int8x16_t>(x);
#if defined(__ARM_FEATURE_DOTPROD)
  return reinterpret_cast<Ints>(vdotq_s32(reinterpret_cast<int32x4_t>(acc), a, b));
#else
  const int16x8_t pairs = vpaddq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)), vmull_high_s8(a, b));
  return reinterpret_cast<Ints>(vpadalq_s16(reinterpret_cast<int32x4_t>(acc), pairs));
#endif
}
#endif
inline constexpr int kWholeSums = 12;
#else  // also AVX-512 without VNNI, which no build that is shipped has
THALOOM_INLINE Ints dot_bytes(Ints acc, Bits w, Bits x) {
  repeat<4>([&](auto i) __attribute__((always_inline)) {
    const Ints signed_x = reinterpret_cast<Ints>(x << (24 - 8 * i)) >> 24;
    acc += reinterpret_cast<Ints>((w >> (8 * i)) & 255u) * signed_x;
  });
  return acc;
}
inline constexpr int kWholeSums = kAccumulators < 16 ? kAccumulators : 16;
#endif

// How the numbers of one width are multiplied: `begin`, then `add` for every four inputs, then `end`.
#if defined(THALOOM_PRODUCTS_OF_16_BITS)
#if defined(__AVX2__)
THALOOM_INLINE Bits multiply_bytes(Bits a, Bits b) {
  return reinterpret_cast<Bits>(_mm256_maddubs_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
}
THALOOM_INLINE Ints add_pairs(Bits a) {
  return reinterpret_cast<Ints>(_mm256_madd_epi16(reinterpret_cast<__m256i>(a), _mm256_set1_epi16(1)));
}
THALOOM_INLINE Bits add_halves(Bits a, Bits b) {
  return reinterpret_cast<Bits>(_mm256_add_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
}
THALOOM_INLINE Bits with_sign_of(Bits a, Bits b) {
  return reinterpret_cast<Bits>(_mm256_sign_epi8(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
}
#else
THALOOM_INLINE Bits multiply_bytes(Bits a, Bits b) {
  return reinterpret_cast<Bits>(_mm_maddubs_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
}
THALOOM_INLINE Ints add_pairs(Bits a) {
  return reinterpret_cast<Ints>(_mm_madd_epi16(reinterpret_cast<__m128i>(a), _mm_set1_epi16(1)));
}
THALOOM_INLINE Bits add_halves(Bits a, Bits b) {
  return reinterpret_cast<Bits>(_mm_add_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
}
THALOOM_INLINE Bits with_sign_of(Bits a, Bits b) {
  return reinterpret_cast<Bits>(_mm_sign_epi8(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
}
#endif

// The product of bytes adds two of them in 16 bits and cuts off what does not fit. 255 * 127 * 2 does not, so the sign
// moves to the other side: |x| * (w with the sign of x), at most 127 * 127 * 2 = 32258.
struct Whole8 {
  using Acc = Ints;
  static constexpr float kScale = 1.0f;
  static THALOOM_INLINE Acc begin(int32_t) { return Acc{}; }
  static THALOOM_INLINE Bits signed_bytes(Bits stored) { return stored ^ 0x80808080u; }
  static THALOOM_INLINE Acc add(Acc acc, Bits w, Bits x) {
    return acc + add_pairs(multiply_bytes(with_sign_of(x, x), with_sign_of(signed_bytes(w), x)));
  }
  static THALOOM_INLINE Ints end(Acc acc, int32_t) { return acc; }
};

// 15 * 127 * 2 for each of eight steps is at most 30480: all 32 inputs fit into 16 bits.
struct Whole4 {
  using Acc = Bits;
  static constexpr float kScale = 1.0f;
  static THALOOM_INLINE Bits low(Bits both) { return both & 0x0F0F0F0Fu; }
  static THALOOM_INLINE Bits high(Bits both) { return (both >> 4) & 0x0F0F0F0Fu; }
  static THALOOM_INLINE Acc begin(int32_t) { return Acc{}; }
  static THALOOM_INLINE Acc add(Acc acc, Bits w, Bits x) { return add_halves(acc, multiply_bytes(w, x)); }
  static THALOOM_INLINE Ints end(Acc acc, int32_t correction) { return add_pairs(acc) + (correction >> 4); }
};
#elif defined(__aarch64__) && !defined(__ARM_FEATURE_MATMUL_INT8)
struct Whole8 {
  using Acc = Ints;
  static constexpr float kScale = 1.0f;
  static THALOOM_INLINE Acc begin(int32_t) { return Acc{}; }
  static THALOOM_INLINE Acc add(Acc acc, Bits w, Bits x) { return dot_signed(acc, w ^ 0x80808080u, x); }
  static THALOOM_INLINE Ints end(Acc acc, int32_t) { return acc; }
};

// 0 to 15 is the same signed and unsigned: only the correction is left to make.
struct Whole4 : Whole8 {
  static THALOOM_INLINE Bits low(Bits both) { return both & 0x0F0F0F0Fu; }
  static THALOOM_INLINE Bits high(Bits both) { return (both >> 4) & 0x0F0F0F0Fu; }
  static THALOOM_INLINE Acc begin(int32_t correction) { return Ints{} + (correction >> 4); }
  static THALOOM_INLINE Acc add(Acc acc, Bits w, Bits x) { return dot_signed(acc, w, x); }
};
#else
struct Whole8 {
  using Acc = Ints;
  static constexpr float kScale = 1.0f;
  static THALOOM_INLINE Acc begin(int32_t correction) { return Ints{} + correction; }
  static THALOOM_INLINE Acc add(Acc acc, Bits w, Four x) { return dot_bytes(acc, w, x); }
  static THALOOM_INLINE Ints end(Acc acc, int32_t) { return acc; }
};

// Sixteen times the number, in the upper half of a byte: one operation fewer, and the correction is that of 8 bits. A
// scale of a sixteenth undoes it exactly.
struct Whole4 : Whole8 {
  static constexpr float kScale = 0.0625f;
  static THALOOM_INLINE Bits low(Bits both) { return (both << 4) & 0xF0F0F0F0u; }
  static THALOOM_INLINE Bits high(Bits both) { return both & 0xF0F0F0F0u; }
};
#endif

template <uint32_t DType>
struct WholeTile {
  static constexpr bool kIsUpper = DType == kInt8Upper;
  static constexpr bool kIsNarrow = DType == THALOOM_INT4;
  // In 4 bits a part beside each sum takes registers too; tiles of ten also cut 12 and 32 rows evenly. In 8 bits sums of
  // up to 16 rows are kept in memory, where each is touched once for 32 inputs: 3 to 9 % at 13 to 16 rows.
  static constexpr int kFit = kIsNarrow && kVectors == 1 ? 10 : kWholeSums;
  static constexpr int kSums = kFit < kMostWholeSums ? kFit : kMostWholeSums;
  static constexpr int kRows = DType == THALOOM_INT8 && kVectors == 1 && kMostWholeSums == 16 ? 16 : kSums / kVectors;
  static constexpr int kMany = 24;
  // Tiles of so few rows wait for memory and for nothing else: they ask for what lies ahead in the order in which it
  // lies there, not panel beside panel as it is read (2 to 6 % at 1 to 7 rows, and as much lost beyond).
  static constexpr int kFewRows = 7;
  using Numbers = std::conditional_t<kIsNarrow, Whole4, Whole8>;

  template <int R, int P>
  using Accs = typename Numbers::Acc[R][P * kVectors];

  static THALOOM_INLINE const WholeInputs &input(const Strip &s, int r, size_t group) {
    return *reinterpret_cast<const WholeInputs *>(s.x + static_cast<size_t>(r) * s.x_stride + group * sizeof(WholeInputs));
  }

  // Asks for so many eighths of `Bytes`.
  template <size_t Bytes>
  static THALOOM_INLINE void fetch(const std::byte *from, size_t eighths) {
    repeat<static_cast<int>((Bytes + 63) / 64)>([&](auto line) __attribute__((always_inline)) {
      if (line * 64 * 8 < Bytes * eighths) __builtin_prefetch(from + line * 64, 0, 2);
    });
  }

  // With line `line` of a group of panel `panel`: asks for what comes next, if it is this line's turn.
  static THALOOM_INLINE void ask(const Strip &s, size_t group, size_t line, size_t panel) {
    constexpr size_t kBytes = whole_group_bytes(DType), kLines = kBytes / 64;
    const auto turn = [&](const std::byte *from, size_t number, size_t of) __attribute__((always_inline)) {
      if (number * 8 < s.asked * of) __builtin_prefetch(from + group * s.asked * (of * 8) + number * 64, 0, 2);
    };
    if (line < kLines) turn(s.next + whole_scale_bytes(DType, s.columns) + panel * s.panel_bytes, line, kLines);
    else if (DType == THALOOM_INT8_SPLIT) turn(s.next_lower + panel * s.lower_bytes, line - kLines, kLowerBytes / 64);
  }

  // Four inputs from `k` on: one vector of weights after the other, each over all rows.
  template <int R, int P>
  static THALOOM_INLINE void add_four(Accs<R, P> &accs, const Strip &s, size_t group, size_t k, auto i, Bits w) {
    repeat<R>([&](auto r) __attribute__((always_inline)) {
      accs[r][i] = Numbers::add(accs[r][i], w, four_at(input(s, r, group).numbers + k));
    });
  }

  // add(r, p, v, the products of one group, scale of the activations, scale of the weights) for every sum. Every tile
  // fetches the next strip, those of few rows too: a panel is so short that the hardware's streams, which end with a page,
  // have hardly begun before it is over.
  template <int R, int P, class Add>
  static THALOOM_INLINE void add_group(const Strip &s, size_t group, const Add &add) {
    constexpr size_t kBytes = whole_group_bytes(DType);
    const std::byte *const panels = s.panels + whole_scale_bytes(DType, s.columns) + group * kBytes;
    if constexpr (R <= kFewRows) {
      constexpr size_t kShare = P * (kBytes + (DType == THALOOM_INT8 ? 0 : 32));  // of what lies ahead, scales included
      fetch<kShare>(s.next + group * kShare * s.asked / 8, s.asked);
      if constexpr (DType == THALOOM_INT8_SPLIT)
        fetch<P * kLowerBytes>(s.next_lower + group * P * kLowerBytes * s.asked / 8, s.asked);
    }
    Accs<R, P> accs;
    repeat<R>([&](auto r) __attribute__((always_inline)) {
      repeat<P * kVectors>([&](auto i) __attribute__((always_inline)) {
        accs[r][i] = Numbers::begin(input(s, r, group).correction);
      });
    });
    constexpr size_t kLines = is_split(DType) ? 8 : kBytes / 64;
    repeat<static_cast<int>(kLines)>([&](auto line) __attribute__((always_inline)) {
      repeat<P * kVectors>([&](auto i) __attribute__((always_inline)) {
        const std::byte *at = panels + static_cast<size_t>(i / kVectors) * s.panel_bytes + i % kVectors * kLanes * 4;
        if constexpr (R > kFewRows && i % kVectors == 0) ask(s, group, line, i / kVectors);
        if constexpr (is_split(DType)) {
          Bits lower = Bits{} + kMiddle * 0x01010101u;
          if constexpr (!kIsUpper)
            lower = lower_bits<line>(s.lower + static_cast<size_t>(i / kVectors) * s.lower_bytes + group * kLowerBytes +
                                     i % kVectors * kLanes * 4);
          add_four<R, P>(accs, s, group, line * 4, i, upper_bits<line>(at) | lower);
          return;
        }
        const Bits stored = load_bits(at + line * 64);
        if constexpr (kIsNarrow) {
          add_four<R, P>(accs, s, group, line * 8, i, Numbers::low(stored));
          add_four<R, P>(accs, s, group, line * 8 + 4, i, Numbers::high(stored));
        } else {
          add_four<R, P>(accs, s, group, line * 4, i, stored);
        }
      });
    });
    repeat<P>([&](auto p) __attribute__((always_inline)) {
      Group scales = {};
      if constexpr (DType != THALOOM_INT8) scales = load_scales(s.panels + p * s.panel_bytes + group * 32);
      repeat<R * kVectors>([&](auto j) __attribute__((always_inline)) {
        constexpr int r = j / kVectors, v = j % kVectors;
        const WholeInputs &x = input(s, r, group);
        const Float dot = __builtin_convertvector(Numbers::end(accs[r][p * kVectors + v], x.correction), Float);
        add(r, p, v, dot, x.scale, scales.part[v]);
      });
    });
  }

  template <int R, int P>
  static void run(const Strip &told, float *to) {
    const Strip s = told;  // in registers, as in tiles.h
    Sums<R, P> sums;
    const size_t num_groups = s.columns / kWholeGroup;
    if constexpr (kIsNarrow) {
      static_assert(whole_reach(DType) == 2 * kWholeGroup);
      for (size_t group = 0; group < num_groups; group += 2) {
        Sums<R, P> part;  // of the inputs that share a scale
        const auto add = [&](int r, int p, int v, Float dot, float, Float scale) __attribute__((always_inline)) {
          part.of[r][p][v] = fma(dot, scale * Numbers::kScale, part.of[r][p][v]);
        };
        add_group<R, P>(s, group, add);
        if (group + 1 < num_groups) add_group<R, P>(s, group + 1, add);
        repeat<R * P * kVectors>([&](auto i) __attribute__((always_inline)) {
          constexpr int r = i / (P * kVectors), p = i / kVectors % P, v = i % kVectors;
          sums.of[r][p][v] = fma(part.of[r][p][v], broadcast(input(s, r, group).scale), sums.of[r][p][v]);
        });
      }
    } else {
      for (size_t group = 0; group < num_groups; ++group)
        add_group<R, P>(s, group, [&](int r, int p, int v, Float dot, float x, Float scale) __attribute__((always_inline)) {
          if constexpr (DType == THALOOM_INT8) sums.of[r][p][v] = fma(dot, broadcast(x), sums.of[r][p][v]);
          else sums.of[r][p][v] = fma(dot, broadcast(x) * scale, sums.of[r][p][v]);
        });
    }
    if constexpr (DType == THALOOM_INT8)
      repeat<R * P * kVectors>([&](auto i) __attribute__((always_inline)) {
        constexpr int r = i / (P * kVectors), p = i / kVectors % P, v = i % kVectors;
        const auto *scales = reinterpret_cast<const float *>(s.panels + p * s.panel_bytes);
        sums.of[r][p][v] = sums.of[r][p][v] * load(scales + v * kLanes);
      });
    sums.write(to);
  }
};

}  // namespace thaloom
