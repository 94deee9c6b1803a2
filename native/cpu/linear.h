// Rows times a matrix in panels.
//
// Every output is one chain of multiply-adds over its inputs in order, from zero; the bias comes last. A tile of any
// shape runs that same chain for each of its outputs, so results do not depend on how rows and panels are cut. A
// tile keeps `Rows` x `Panels` x 16 sums in registers and reads each weight once for all of its rows; the panels of
// one tile stay in the second cache while all rows of the step go by, so memory is read once per step.
#pragma once

#include "matrix.h"

namespace thaloom {

// Rows of some matrix of activations: row r is at base + (index ? index[r] : r) * stride.
struct Rows {
  float *base;
  size_t stride;
  const int32_t *index = nullptr;

  float *at(size_t r) const { return base + (index == nullptr ? r : static_cast<size_t>(index[r])) * stride; }
};

inline constexpr int kTileRows = kAccumulators / kVectors >= 6 ? 6 : 3;

// Panels in a tile of so many rows: as many as keep the multipliers busy and fit the registers; a power of two.
constexpr int tile_panels(int rows) {
  int panels = 8;
  while (panels > 1 && rows * panels * kVectors > kAccumulators) panels /= 2;
  return panels;
}

template <int R, int P>
struct Sums {
  Float of[R][P][kVectors];
};

template <int R, int P>
THALOOM_INLINE void add_product(Sums<R, P> &sums, int p, int i, Float weights, const float *const (&x)[R], size_t k) {
  repeat<R>([&](auto r) __attribute__((always_inline)) {
    sums.of[r][p][i] = fma(weights, broadcast(x[r][k]), sums.of[r][p][i]);
  });
}

template <int R, int P>
THALOOM_INLINE void multiply_f32(Sums<R, P> &sums, const std::byte *panel, size_t panel_bytes, size_t columns,
                                 const float *const (&x)[R]) {
  for (size_t k = 0; k < columns; ++k)
    repeat<P>([&](auto p) __attribute__((always_inline)) {
      repeat<kVectors>([&](auto i) __attribute__((always_inline)) {
        const auto *w = reinterpret_cast<const float *>(panel + p * panel_bytes + k * 64) + i * kLanes;
        add_product(sums, p, i, load(w), x, k);
      });
    });
}

template <int R, int P>
THALOOM_INLINE void multiply_bf16(Sums<R, P> &sums, const std::byte *panel, size_t panel_bytes, size_t columns,
                                  const float *const (&x)[R]) {
  const auto pair = [&](size_t k, auto half) __attribute__((always_inline)) {  // half: 0 even inputs, 1 odd
    repeat<P>([&](auto p) __attribute__((always_inline)) {
      repeat<kVectors>([&](auto i) __attribute__((always_inline)) {
        const Bits both = load_bits(panel + p * panel_bytes + k * 32 + i * kLanes * 4);
        add_product(sums, p, i, as_float(half ? both & 0xFFFF0000u : both << 16), x, k + half);
      });
    });
  };
  constexpr std::integral_constant<int, 0> even;
  constexpr std::integral_constant<int, 1> odd;
  size_t k = 0;
  for (; k + 1 < columns; k += 2) {
    pair(k, even);
    pair(k, odd);
  }
  if (k < columns) pair(k, even);
}

template <uint32_t DType, int R, int P>
__attribute__((noinline)) void multiply_tile(const Matrices &w, size_t matrix, size_t panel, const Rows &in,
                                             const Rows &out, size_t row, const float *bias) {
  const float *x[R];
  repeat<R>([&](auto r) __attribute__((always_inline)) { x[r] = in.at(row + r); });
  Sums<R, P> sums = {};
  if constexpr (DType == THALOOM_F32) multiply_f32(sums, w.panel(matrix, panel), w.panel_bytes, w.columns, x);
  else multiply_bf16(sums, w.panel(matrix, panel), w.panel_bytes, w.columns, x);
  repeat<R>([&](auto r) __attribute__((always_inline)) {
    float *y = out.at(row + r) + panel * kGroup;
    repeat<P>([&](auto p) __attribute__((always_inline)) {
      repeat<kVectors>([&](auto i) __attribute__((always_inline)) {
        constexpr int at = p * kGroup + i * kLanes;
        const Float value = sums.of[r][p][i];
        store(y + at, bias == nullptr ? value : value + load(bias + panel * kGroup + at));
      });
    });
  });
}

template <uint32_t DType, int P, int R>
void multiply_rows(const Matrices &w, size_t matrix, size_t panel, const Rows &in, const Rows &out, size_t row,
                   size_t num_rows, const float *bias) {
  if constexpr (R > 0) {
    if (num_rows < R) return multiply_rows<DType, P, R - 1>(w, matrix, panel, in, out, row, num_rows, bias);
    multiply_tile<DType, R, P>(w, matrix, panel, in, out, row, bias);
  }
}

// All rows over the panels [begin, end), `P` panels at a time, then fewer.
template <uint32_t DType, int P>
void multiply_panels(const Matrices &w, size_t matrix, size_t begin, size_t end, const Rows &in, const Rows &out,
                     size_t num_rows, const float *bias) {
  constexpr int kMostRows = kAccumulators / (P * kVectors) < kTileRows ? kAccumulators / (P * kVectors) : kTileRows;
  for (; begin + P <= end; begin += P)
    for (size_t row = 0; row < num_rows; row += kMostRows)
      multiply_rows<DType, P, kMostRows>(w, matrix, begin, in, out, row, num_rows - row, bias);
  if constexpr (P > 1) multiply_panels<DType, P / 2>(w, matrix, begin, end, in, out, num_rows, bias);
}

template <uint32_t DType>
void multiply_any(const Matrices &w, size_t matrix, size_t begin, size_t end, const Rows &in, const Rows &out,
                  size_t num_rows, const float *bias) {
  const auto run = [&](auto panels) { multiply_panels<DType, panels>(w, matrix, begin, end, in, out, num_rows, bias); };
  if (num_rows == 1) return run(std::integral_constant<int, tile_panels(1)>{});
  if (num_rows <= 3) return run(std::integral_constant<int, tile_panels(3)>{});
  return run(std::integral_constant<int, tile_panels(kTileRows)>{});
}

// out[r] = in[r] times the panels [begin, end) of one matrix of the stack, plus bias if there is one. The rows of
// `out` have room for whole panels.
inline void multiply(const Matrices &w, size_t matrix, size_t begin, size_t end, const Rows &in, const Rows &out,
                     size_t num_rows, const float *bias = nullptr) {
  if (w.dtype == THALOOM_F32) multiply_any<THALOOM_F32>(w, matrix, begin, end, in, out, num_rows, bias);
  else multiply_any<THALOOM_BF16>(w, matrix, begin, end, in, out, num_rows, bias);
}

}  // namespace thaloom
