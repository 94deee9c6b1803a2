// How matrices lie in memory: panels of 16 output features, so that one vector of weights meets one activation and
// every output is a sum in the order of its inputs, whatever tile computes it.
//
// f32:  panel[k][16].  bf16: panel[k / 2][16][2], pairs of inputs side by side, an odd last one with a zero partner.
// Rows beyond the last are zeros. The last panel of a stack's matrix is whole, so panels never mix matrices.
#pragma once

#include "simd.h"
#include "thaloom_cpu.h"

namespace thaloom {

inline constexpr uint32_t kMostColumns = 1u << 22;  // of a slot, and rows or columns of a matrix
inline constexpr uint32_t kMostExperts = 1u << 12;

inline size_t panel_bytes(uint32_t dtype, uint32_t columns) {
  return dtype == THALOOM_F32 ? size_t{columns} * 64 : (size_t{columns} + 1) / 2 * 64;
}

// 0 if there can be no such stack. Below 2^62 for every size that is allowed.
inline uint64_t packed_bytes(uint32_t dtype, uint32_t count, uint32_t rows, uint32_t columns) {
  if (dtype > THALOOM_BF16 || !count || count > kMostExperts || !rows || rows > kMostColumns || !columns ||
      columns > kMostColumns)
    return 0;
  return uint64_t{count} * (round_up(rows, kGroup) / kGroup) * panel_bytes(dtype, columns);
}

class Matrices {
 public:
  explicit Matrices(const thaloom_weight &weight)
      : data_(static_cast<const std::byte *>(weight.data)),
        dtype(weight.dtype),
        rows(weight.rows),
        columns(weight.columns),
        num_panels(static_cast<uint32_t>(round_up(weight.rows, kGroup) / kGroup)),
        panel_bytes(thaloom::panel_bytes(weight.dtype, weight.columns)) {}

  const std::byte *panel(size_t matrix, size_t panel) const { return data_ + (matrix * num_panels + panel) * panel_bytes; }

  // One number, for reading rows of an embedding.
  float at(size_t row, size_t column) const {
    const std::byte *base = panel(0, row / kGroup);
    const size_t lane = row % kGroup;
    if (dtype == THALOOM_F32) return reinterpret_cast<const float *>(base)[column * kGroup + lane];
    return f32_from_bf16(reinterpret_cast<const uint16_t *>(base)[(column / 2 * kGroup + lane) * 2 + column % 2]);
  }

 private:
  const std::byte *data_;

 public:
  const uint32_t dtype, rows, columns, num_panels;
  const size_t panel_bytes;
};

template <class Number>
void pack_panels(Number *target, const Number *source, size_t count, size_t rows, size_t columns) {
  constexpr size_t kPair = 4 / sizeof(Number);  // inputs that stand side by side
  for (size_t matrix = 0; matrix < count; ++matrix, source += rows * columns)
    for (size_t first = 0; first < rows; first += kGroup)
      for (size_t k = 0; k < columns; k += kPair)
        for (size_t lane = 0; lane < kGroup; ++lane)
          for (size_t i = 0; i < kPair; ++i) {
            const bool is_there = first + lane < rows && k + i < columns;
            *target++ = is_there ? source[(first + lane) * columns + k + i] : Number{0};
          }
}

}  // namespace thaloom
