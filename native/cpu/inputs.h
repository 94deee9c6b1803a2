// Rows of activations made ready once for all the panels that read them, in the form their products want.
//
// f32: as they are, so rows that lie in order are read where they stand. bf16: rounded once, to nearest even, pairs
// side by side as the dot product takes them. Whole numbers: 32 after 32, with scales (whole.h). Which form a matrix
// wants depends on its dtype and on the build alone.
// Whoever makes a value makes it ready too, where it can, while it is at hand: see Slot. Else its reader does, in a
// workspace that is sized when the program is read: see Workspaces.
#pragma once

#include "matrix.h"

namespace thaloom {

enum class Form : uint32_t { kF32, kBF16, kWhole, kWholeFor4 };
inline constexpr Form kForms[] = {Form::kF32, Form::kBF16, Form::kWhole, Form::kWholeFor4};

using Forms = uint32_t;  // a bit for each
constexpr Forms bit(Form form) { return 1u << static_cast<uint32_t>(form); }

constexpr Form form_of(uint32_t dtype) {
  if (is_whole(dtype)) return dtype == THALOOM_INT4 ? Form::kWholeFor4 : Form::kWhole;
  return kHasBF16 && dtype == THALOOM_BF16 ? Form::kBF16 : Form::kF32;
}

// Whether a matrix of `dtype` can read rows made ready for one of `other`. In whole numbers the scale of 64 stands beside
// each 32 of them, so whoever wants one for 32 finds one.
constexpr bool can_read(uint32_t dtype, uint32_t other) {
  return form_of(dtype) == form_of(other) || (is_whole(dtype) && other == THALOOM_INT4);
}

// Rows of floats: row r is at base + (index ? index[r] : r) * stride.
struct Rows {
  float *base;
  size_t stride;
  const int32_t *index = nullptr;

  float *at(size_t r) const { return base + (index == nullptr ? r : static_cast<size_t>(index[r])) * stride; }
};

// Rows as a product reads them, always one after another; `stride` in bytes.
struct Inputs {
  const std::byte *base;
  size_t stride;

  const std::byte *at(size_t r) const { return base + r * stride; }
};

// Bytes from one row to the next: whole cache lines, and an odd number of them, so that rows of a width that is a power
// of two do not all meet in the same lines of the first cache.
inline size_t input_stride(Form form, size_t columns) {
  const size_t num_bytes = form >= Form::kWhole ? columns / kWholeGroup * sizeof(WholeInputs)
                                                : round_up(columns, kGroup) * (form == Form::kF32 ? 4 : 2);
  return (round_up(num_bytes, 64) / 64 | 1) * 64;
}

// Columns that are made ready together, and where those from `column` on stand in a row.
constexpr size_t form_reach(Form form) {
  if (form == Form::kWhole) return whole_reach(THALOOM_INT8);
  return form == Form::kWholeFor4 ? whole_reach(THALOOM_INT4) : kGroup;
}
constexpr size_t input_offset(Form form, size_t column) {
  if (form >= Form::kWhole) return column / kWholeGroup * sizeof(WholeInputs);
  return column * (form == Form::kF32 ? 4 : 2);
}

// One row, or the columns of one from a multiple of form_reach on. Zeros stand beyond them, to the next group of 16.
inline void make_input(Form form, const float *x, size_t columns, std::byte *to) {
  if (form == Form::kWhole) {
    make_whole_input<whole_reach(THALOOM_INT8)>(x, columns, reinterpret_cast<WholeInputs *>(to));
  } else if (form == Form::kWholeFor4) {
    make_whole_input<whole_reach(THALOOM_INT4)>(x, columns, reinterpret_cast<WholeInputs *>(to));
  } else if (form == Form::kF32) {
    for (size_t k = 0; k < columns; k += kGroup)
      store_group(reinterpret_cast<float *>(to) + k, load_part(x + k, columns - k));
  } else {
    for (size_t k = 0; k < columns; k += kGroup)
      store_bf16(reinterpret_cast<uint16_t *>(to) + k, load_part(x + k, columns - k));
  }
}

}  // namespace thaloom
