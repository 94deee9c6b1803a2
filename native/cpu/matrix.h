// How matrices lie in memory: panels of 16 output features, so that one vector of weights meets one activation and
// every output is a sum in the order of its inputs, whatever tile computes it.
//
// Whole numbers: whole.h.  f32:  panel[k][16].  bf16: panel[k / 2][16][2], pairs of inputs side by side, an odd last one
// with a zero partner.
// Rows beyond the last are zeros. The last panel of a stack's matrix is whole, so panels never mix matrices.
#pragma once

#include "split.h"

namespace thaloom {

inline constexpr uint32_t kMostColumns = 1u << 22;  // of a slot, and rows or columns of a matrix
inline constexpr uint32_t kMostExperts = 1u << 12;

inline size_t panel_bytes(uint32_t dtype, uint32_t columns) {
  if (is_whole(dtype)) return whole_panel_bytes(dtype, columns);
  return dtype == THALOOM_F32 ? size_t{columns} * 64 : (size_t{columns} + 1) / 2 * 64;
}

// Whether matrices can be of `dtype`, with so many columns.
constexpr bool is_matrix(uint32_t dtype, uint32_t columns) {
  return dtype == THALOOM_F32 || dtype == THALOOM_BF16 || dtype == THALOOM_BF16_WIDE ||
         (is_whole(dtype) && columns % kWholeGroup == 0);
}

// 0 if there can be no such stack. Below 2^62 for every size that is allowed.
inline uint64_t packed_bytes(uint32_t dtype, uint32_t count, uint32_t rows, uint32_t columns) {
  if (!is_matrix(dtype, columns) || !count || count > kMostExperts || !rows || rows > kMostColumns || !columns ||
      columns > kMostColumns || (dtype == THALOOM_INT8_SPLIT && count != 1))
    return 0;
  return uint64_t{count} * (round_up(rows, kGroup) / kGroup) * (panel_bytes(dtype, columns) + lower_bytes(dtype, columns));
}

class Matrices {
 public:
  Matrices() = default;
  explicit Matrices(const thaloom_weight &weight)
      : data_(static_cast<const std::byte *>(weight.data)),
        dtype(weight.dtype),
        rows(weight.rows),
        columns(weight.columns),
        num_panels(static_cast<uint32_t>(round_up(weight.rows, kGroup) / kGroup)),
        panel_bytes(thaloom::panel_bytes(weight.dtype, weight.columns)),
        lower_bytes(thaloom::lower_bytes(weight.dtype, weight.columns)) {}

  const std::byte *panel(size_t matrix, size_t panel) const { return data_ + (matrix * num_panels + panel) * panel_bytes; }

  // Of int8_split: the upper bits as a matrix of their own, and the lower bits of a panel.
  Matrices upper() const {
    Matrices upper = *this;
    upper.dtype = kInt8Upper;
    return upper;
  }
  const std::byte *lower(size_t panel) const { return data_ + num_panels * panel_bytes + panel * lower_bytes; }

  void fetch_lower(size_t panel) const {
    for (size_t at = 0; at < lower_bytes; at += 64) __builtin_prefetch(lower(panel) + at, 0, 2);
  }

  // A panel of int8_split as one of int8_groups; asks for the lower bits of `next` meanwhile.
  void join(size_t panel, size_t next, std::byte *to) const {
    fetch_lower(next);
    join_panel(this->panel(0, panel), lower(panel), columns, to);
  }

  // One row as floats, as an embedding reads it.
  void read_row(size_t row, float *out) const {
    const std::byte *base = panel(0, row / kGroup);
    const size_t lane = row % kGroup;
    if (is_whole(dtype)) {
      const auto *numbers = reinterpret_cast<const uint8_t *>(base) + whole_scale_bytes(dtype, columns);
      const auto *low = reinterpret_cast<const uint8_t *>(dtype == THALOOM_INT8_SPLIT ? lower(row / kGroup) : nullptr);
      for (size_t k = 0; k < columns; ++k) {
        const int32_t number = low != nullptr ? split_number(numbers, low, lane, k) : whole_number(dtype, numbers, lane, k);
        out[k] = static_cast<float>(number) * whole_scale(dtype, base, lane, k);
      }
      return;
    }
    for (size_t k = 0; k < columns; ++k)
      out[k] = dtype == THALOOM_F32
                   ? reinterpret_cast<const float *>(base)[k * kGroup + lane]
                   : f32_from_bf16(reinterpret_cast<const uint16_t *>(base)[(k / 2 * kGroup + lane) * 2 + k % 2]);
  }

 private:
  const std::byte *data_ = nullptr;

 public:
  uint32_t dtype = 0, rows = 0, columns = 0, num_panels = 0;
  size_t panel_bytes = 0, lower_bytes = 0;
};

}  // namespace thaloom
