// Tiles: so many rows times so many panels, their sums held in registers, each weight read once for all the rows.
//
// Every output is one chain over its inputs in order, from zero, fixed by the format alone; a tile of any shape runs
// that same chain for each of its outputs. A tile ends with its sums in memory and nothing done to them; what comes
// after (bias, activation, residual) is the same code for every format: linear.h.
#pragma once

#include "inputs.h"

namespace thaloom {

// What one tile reads, and asks for into the second cache meanwhile: what lies from `next` on, `asked` lines of it for every
// eight that it reads.
struct Strip {
  const std::byte *panels;
  size_t panel_bytes;
  const std::byte *x;
  size_t x_stride;  // in bytes
  size_t columns;
  const std::byte *next;
  size_t asked;
  const std::byte *lower = nullptr, *next_lower = nullptr;  // of int8_split: the panels' lower parts
  size_t lower_bytes = 0;
};

// Writes the sums of its rows, each `panels * 16` floats, one row after another.
using Tile = void (*)(const Strip &, float *sums);

inline constexpr int kTileRows = kLanes == 16 ? 16 : kAccumulators / kVectors;  // of any format's largest tile
inline constexpr int kFloatRows = kLanes == 16 ? 12 : kTileRows;  // of the largest tile over floats

// Panels in a tile of so many rows: enough sums to keep the multipliers busy, few enough to stay in registers.
constexpr int tile_panels(int rows, int sums) {
  int panels = 4;
  while (panels > 1 && rows * panels * kVectors > sums) panels /= 2;
  return panels;
}

// Tiles of one format: for 1 to `rows` rows, of 1, 2 or 4 panels where so many sums fit the registers.
struct Tiles {
  Tile of[kTileRows][3];
  int sums;  // vectors of sums a tile of several panels may hold
  int rows;
  int many;  // rows beyond which tiles of eight are quicker than the largest (2 to 7 %); of fewer they are slower
};

template <class Format>
struct TilesOf {
  static_assert(Format::kSums <= kAccumulators && Format::kRows * kVectors <= kAccumulators);  // multiply() has that room
  template <int R, int P>
  static constexpr Tile tile() {
    if constexpr (R <= Format::kRows && P <= tile_panels(R, Format::kSums)) return &Format::template run<R, P>;
    else return nullptr;
  }
  template <int... I>
  static constexpr Tiles make(std::integer_sequence<int, I...>) {
    return {{{tile<I + 1, 1>(), tile<I + 1, 2>(), tile<I + 1, 4>()}...},
            Format::kSums, Format::kRows, Format::kMany};
  }
  static constexpr Tiles tiles = make(std::make_integer_sequence<int, kTileRows>{});
};

template <int R, int P>
struct Sums {
  Float of[R][P][kVectors] = {};

  THALOOM_INLINE void write(float *to) const {
    repeat<R * P * kVectors>([&](auto i) __attribute__((always_inline)) {
      store(to + i * kLanes, of[i / (P * kVectors)][i / kVectors % P][i % kVectors]);
    });
  }
};

// Calls step(line, x) for every 64 bytes of a panel: `line` that of the first panel, `x` what has been read of a row,
// `x_bytes` a line. Only tiles of many rows fetch ahead: they would otherwise compute and wait for memory in turns (6 to
// 13 % at 16 and 32 rows). With few rows the hardware's own streams are faster than any distance that was tried.
template <int R, int P, class Step>
THALOOM_INLINE void walk(const Strip &s, size_t num_lines, size_t x_bytes, const Step &step) {
  const std::byte *ask = s.next;
  for (size_t line = 0; line < num_lines; ++line) {
    if constexpr (R > kFloatRows / 3)
      if (line % 8 < s.asked) {
        repeat<P>([&](auto p) __attribute__((always_inline)) { __builtin_prefetch(ask + p * s.panel_bytes, 0, 2); });
        ask += 64;
      }
    step(line * 64, line * x_bytes);
  }
}

// sums += weights * x[r] for every row, one input at a time.
template <int R, int P>
THALOOM_INLINE void add_products(Sums<R, P> &sums, const Float (&weights)[P][kVectors], const Strip &s, size_t x) {
  repeat<R>([&](auto r) __attribute__((always_inline)) {
    const Float value = broadcast(*reinterpret_cast<const float *>(s.x + r * s.x_stride + x));
    repeat<P * kVectors>([&](auto i) __attribute__((always_inline)) {
      Float &sum = sums.of[r][i / kVectors][i % kVectors];
      sum = fma(weights[i / kVectors][i % kVectors], value, sum);
    });
  });
}

template <int P>
THALOOM_INLINE const std::byte *vector_at(const Strip &s, size_t line, int i) {
  return s.panels + static_cast<size_t>(i / kVectors) * s.panel_bytes + line + i % kVectors * kLanes * 4;
}

struct F32Tile {
  static constexpr int kSums = kAccumulators, kRows = kFloatRows, kMany = 4 * kFloatRows;
  template <int R, int P>
  static void run(const Strip &told, float *to) {
    const Strip s = told;  // in registers: a prefetch may not change it, but the compiler fears so
    Sums<R, P> sums;
    walk<R, P>(s, s.columns, 4, [&](size_t line, size_t x) __attribute__((always_inline)) {
      Float weights[P][kVectors];
      repeat<P * kVectors>([&](auto i) __attribute__((always_inline)) {
        weights[i / kVectors][i % kVectors] = load(reinterpret_cast<const float *>(vector_at<P>(s, line, i)));
      });
      add_products(sums, weights, s, x);
    });
    sums.write(to);
  }
};

// bf16 widened to f32, which is exact, the activations as they are: where there is no product of pairs, and where their
// rounding would cost too much.
struct WidenedTile {
  static constexpr int kSums = kAccumulators, kRows = kFloatRows, kMany = 4 * kFloatRows;
  template <int R, int P>
  static void run(const Strip &told, float *to) {
    const Strip s = told;  // in registers: a prefetch may not change it, but the compiler fears so
    Sums<R, P> sums;
    const auto half = [&](size_t line, size_t x, auto is_odd) __attribute__((always_inline)) {
      Float weights[P][kVectors];
      repeat<P * kVectors>([&](auto i) __attribute__((always_inline)) {
        const Bits both = load_bits(vector_at<P>(s, line, i));
        weights[i / kVectors][i % kVectors] = as_float(is_odd ? both & 0xFFFF0000u : both << 16);
      });
      add_products(sums, weights, s, x + is_odd * 4);
    };
    constexpr std::integral_constant<int, 0> even;
    constexpr std::integral_constant<int, 1> odd;
    walk<R, P>(s, s.columns / 2, 8, [&](size_t line, size_t x) __attribute__((always_inline)) {
      half(line, x, even);
      half(line, x, odd);
    });
    if (s.columns % 2) half(s.columns / 2 * 64, (s.columns - 1) * 4, even);  // the partner of the last is not read
    sums.write(to);
  }
};

#if defined(THALOOM_HAS_BF16)
struct PairTile {
  static constexpr int kSums = kAccumulators, kRows = kFloatRows, kMany = 4 * kFloatRows;
  template <int R, int P>
  static void run(const Strip &told, float *to) {
    const Strip s = told;  // in registers: a prefetch may not change it, but the compiler fears so
    Sums<R, P> sums;
    walk<R, P>(s, (s.columns + 1) / 2, 4, [&](size_t line, size_t x) __attribute__((always_inline)) {
      Bits weights[P * kVectors];
      repeat<P * kVectors>([&](auto i) __attribute__((always_inline)) {
        weights[i] = load_bits(vector_at<P>(s, line, i));
      });
      repeat<R>([&](auto r) __attribute__((always_inline)) {
        const Bits pair = broadcast_bits(s.x + r * s.x_stride + x);
        repeat<P * kVectors>([&](auto i) __attribute__((always_inline)) {
          Float &sum = sums.of[r][i / kVectors][i % kVectors];
          sum = dot_pairs(sum, weights[i], pair);
        });
      });
    });
    sums.write(to);
  }
};
using BF16Tile = PairTile;
#else
using BF16Tile = WidenedTile;
#endif

}  // namespace thaloom
