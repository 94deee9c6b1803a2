// From matrices as a model stores them to panels: rearranged, or made whole numbers on the way, by several threads.
//
// What becomes of floats is defined by src/thaloom/hal/quantise.py, and is the same here to the bit: the same operations
// on the same numbers in the same order, sixteen rows side by side.
#pragma once

#include <atomic>

#include "matrix.h"
#include "threads.h"

namespace thaloom {

inline constexpr float kSmallest = 1e-30f;   // a largest magnitude below it counts as nothing
inline constexpr float kLargest4 = 65504.0f * 6;  // beyond it no scale of 4 bits is a number of f16
inline constexpr float kLargestFloat = 3.4028234664e38f;
inline constexpr float kReaches[] = {8.0f, 7.5f, 7.0f, 8.5f, 6.5f, 9.0f};

// 32 columns of 16 rows, turned: lane r of values[c] is row r. Rows that are not there are zeros.
struct Turned {
  Group values[kWholeGroup];
};

// Matrices as they come: floats of 4 or 2 bytes, or whole numbers with scales.
struct Source {
  const thaloom_source &told;
  size_t rows, columns;  // of one matrix

  float number(size_t at) const {
    switch (told.dtype) {
      case THALOOM_SOURCE_F32: return static_cast<const float *>(told.data)[at];
      case THALOOM_SOURCE_BF16: return f32_from_bf16(static_cast<const uint16_t *>(told.data)[at]);
      default: return f32_from_any_f16(static_cast<const uint16_t *>(told.data)[at]);
    }
  }

  void turn(size_t matrix, size_t row, size_t column, Turned &to) const {
    float lanes[kWholeGroup][kGroup];
    for (size_t lane = 0; lane < kGroup; ++lane) {
      const bool is_there = row + lane < rows;
      const size_t at = ((matrix * rows + (is_there ? row + lane : 0)) * columns) + column;
      for (size_t c = 0; c < kWholeGroup; ++c) lanes[c][lane] = is_there ? number(at + c) : 0.0f;
    }
    for (size_t c = 0; c < kWholeGroup; ++c) to.values[c] = load_group(lanes[c]);
  }
};

template <class F>
THALOOM_INLINE Group each(const F &f) {
  Group out;
  repeat<kVectors>([&](auto i) __attribute__((always_inline)) { out.part[i] = f(i); });
  return out;
}

// The magnitude as bits: NaN and infinity are larger than every number.
THALOOM_INLINE Float magnitude(Float value) { return as_float(as_bits(value) & 0x7FFFFFFFu); }

// The nearest whole number, ties to even, within bounds.
THALOOM_INLINE Float whole(Float value, Float inverse, float least, float most) {
  const Float rounded = (value * inverse + kRounder) - kRounder;
  const Float above = rounded < least ? broadcast(least) : rounded;
  return above > most ? broadcast(most) : above;
}

THALOOM_INLINE Float inverse_of(Float scale) {
  return scale == 0.0f ? broadcast(0.0f) : 1.0f / (scale == 0.0f ? broadcast(1.0f) : scale);
}

// Packs one panel. Returns false for a number that is not finite, or that has no scale.
class PanelPacker {
 public:
  PanelPacker(uint32_t dtype, size_t columns, const Source &source)
      : dtype_(dtype), columns_(columns), source_(source), scale_bytes_(whole_scale_bytes(dtype, columns)) {}

  bool pack(size_t matrix, size_t row, std::byte *panel) const {
    if (source_.told.scales != nullptr) return copy(matrix, row, panel), true;
    Turned block;
    Group scales = {};
    if (dtype_ == THALOOM_INT8) {
      if (!find_row_scales(matrix, row, scales)) return false;
      store_group(reinterpret_cast<float *>(panel), scales);
    }
    for (size_t group = 0; group < columns_ / kWholeGroup; ++group) {
      source_.turn(matrix, row, group * kWholeGroup, block);
      if (dtype_ != THALOOM_INT8 && !find_group_scales(block, scales, panel + group * 32)) return false;
      write(block, scales, panel + scale_bytes_ + group * whole_group_bytes(dtype_));
    }
    return true;
  }

 private:
  uint32_t dtype_;
  size_t columns_;
  const Source &source_;
  size_t scale_bytes_;

  // Along the rows, which is how they lie in memory.
  bool find_row_scales(size_t matrix, size_t row, Group &scales) const {
    float found[kGroup] = {};
    for (size_t lane = 0; lane < kGroup && row + lane < source_.rows; ++lane) {
      const size_t at = (matrix * source_.rows + row + lane) * columns_;
      uint32_t most = 0;
      for (size_t k = 0; k < columns_; ++k) {
        const float value = source_.number(at + k);
        uint32_t bits;
        std::memcpy(&bits, &value, sizeof bits);
        bits &= 0x7FFFFFFFu;
        most = bits > most ? bits : most;
      }
      if (most >= 0x7F800000u) return false;
      float largest;
      std::memcpy(&largest, &most, sizeof largest);
      found[lane] = largest < kSmallest ? 0.0f : largest / 127.0f;
    }
    scales = load_group(found);
    return true;
  }

  bool find_group_scales(const Turned &block, Group &scales, std::byte *to) const {
    bool is_sound = true;
    scales = each([&](int i) {
      Float largest = block.values[0].part[i];
      for (size_t c = 1; c < kWholeGroup; ++c) {
        const Float value = block.values[c].part[i];
        largest = as_bits(magnitude(value)) > as_bits(magnitude(largest)) ? value : largest;
      }
      const Float reach = magnitude(largest);
      for (int lane = 0; lane < kLanes; ++lane)
        is_sound &= reach[lane] <= (dtype_ == THALOOM_INT4 ? kLargest4 : kLargestFloat);
      if (dtype_ == THALOOM_INT4) return best_scale(block, largest, i);
      return reach < kSmallest ? broadcast(0.0f) : reach / 127.0f;
    });
    if (!is_sound) return false;
    float wide[kGroup];
    store_group(wide, scales);
    for (size_t lane = 0; lane < kGroup; ++lane) {
      const uint16_t half = f16_from_f32(wide[lane]);
      if ((half & 0x7C00) == 0x7C00) return false;
      std::memcpy(to + lane * 2, &half, sizeof half);
      wide[lane] = f32_from_f16(half);
    }
    scales = load_group(wide);
    return true;
  }

  // Of the candidates, the one whose best scale leaves the least squared error.
  static Float best_scale(const Turned &block, Float largest, int i) {
    const auto is_there = magnitude(largest) >= kSmallest;
    Float best = broadcast(0.0f), scale = broadcast(0.0f);
    for (const float reach : kReaches) {
      const Float inverse = -reach / (is_there ? largest : broadcast(1.0f));
      Float product = broadcast(0.0f), square = broadcast(0.0f);
      for (size_t c = 0; c < kWholeGroup; ++c) {
        const Float value = block.values[c].part[i], number = whole(value, inverse, -8.0f, 7.0f);
        product = product + value * number;
        square = square + number * number;
      }
      const Float found = product / (is_there ? square : broadcast(1.0f)), gain = product * found;
      const auto is_better = is_there & (gain > best);
      best = is_better ? gain : best;
      scale = is_better ? found : scale;
    }
    return scale;
  }

  void write(const Turned &block, const Group &scales, std::byte *to) const {
    const bool is_narrow = dtype_ == THALOOM_INT4;
    const float least = is_narrow ? -8.0f : -127.0f, most = is_narrow ? 7.0f : 127.0f;
    repeat<kVectors>([&](auto i) __attribute__((always_inline)) {
      const Float inverse = inverse_of(scales.part[i]);
      const auto four = [&](size_t k) __attribute__((always_inline)) {  // four inputs side by side, unsigned
        Bits bytes = {};
        for (size_t b = 0; b < 4; ++b) {
          const Float number = whole(block.values[k + b].part[i], inverse, least, most) + (is_narrow ? 8.0f : 128.0f);
          bytes |= __builtin_convertvector(number, Bits) << static_cast<uint32_t>(8 * b);
        }
        return bytes;
      };
      for (size_t k = 0; k < kWholeGroup; k += is_narrow ? 8 : 4, to += 64) {
        const Bits line = is_narrow ? four(k) | four(k + 4) << 4u : four(k);
        std::memcpy(to + i * kLanes * 4, &line, sizeof line);
      }
      to -= whole_group_bytes(dtype_);
    });
  }

  // Whole numbers that are there already, with their scales.
  void copy(size_t matrix, size_t row, std::byte *panel) const {
    const size_t num_groups = columns_ / kWholeGroup, scales_a_row = dtype_ == THALOOM_INT8 ? 1 : num_groups;
    const auto *numbers = static_cast<const int8_t *>(source_.told.data);
    for (size_t lane = 0; lane < kGroup; ++lane) {
      const bool is_there = row + lane < source_.rows;
      const size_t at = matrix * source_.rows + row + lane;
      for (size_t i = 0; i < scales_a_row; ++i) {
        const float scale = is_there ? source_.told.scales[at * scales_a_row + i] : 0.0f;
        if (dtype_ == THALOOM_INT8) {
          std::memcpy(panel + lane * 4, &scale, sizeof scale);
        } else {
          const uint16_t half = f16_from_f32(scale);
          std::memcpy(panel + (i * kGroup + lane) * 2, &half, sizeof half);
        }
      }
      auto *to = reinterpret_cast<uint8_t *>(panel + scale_bytes_);
      for (size_t k = 0; k < columns_; k += dtype_ == THALOOM_INT4 ? 8 : 4, to += 64)
        for (size_t b = 0; b < 4; ++b) {
          const int8_t *from = numbers + at * columns_ + k + b;
          if (dtype_ == THALOOM_INT4)
            to[lane * 4 + b] = static_cast<uint8_t>(is_there ? (from[0] + 8) | (from[4] + 8) << 4 : 0x88);
          else
            to[lane * 4 + b] = static_cast<uint8_t>(is_there ? from[0] + 128 : 128);
        }
    }
  }
};

// One panel of floats as they are, widened where the source is narrower.
inline void pack_float_panel(const thaloom_weight &w, const Source &source, size_t matrix, size_t row, std::byte *panel) {
  const size_t pair = w.dtype == THALOOM_F32 ? 1 : 2;  // inputs that stand side by side
  for (size_t k = 0; k < w.columns; k += pair)
    for (size_t lane = 0; lane < kGroup; ++lane)
      for (size_t i = 0; i < pair; ++i, panel += 4 / pair) {
        const bool is_there = row + lane < w.rows && k + i < w.columns;
        const size_t at = (matrix * w.rows + row + lane) * w.columns + k + i;
        if (w.dtype == THALOOM_F32) {
          const float value = is_there ? source.number(at) : 0.0f;
          std::memcpy(panel, &value, sizeof value);
        } else {
          const uint16_t bits = is_there ? static_cast<const uint16_t *>(source.told.data)[at] : uint16_t{0};
          std::memcpy(panel, &bits, sizeof bits);
        }
      }
}

// All panels of `w`, by as many threads as pay. Gives a status: bad numbers where one could not be made whole.
inline int32_t pack_panels(const thaloom_weight &w, const thaloom_source &told, uint32_t num_threads) {
  const Source source{told, w.rows, w.columns};
  const bool is_split = w.dtype == THALOOM_INT8_SPLIT;
  const uint32_t dtype = is_split ? uint32_t{THALOOM_INT8_GROUPS} : w.dtype;  // split once they are there
  const PanelPacker packer(dtype, w.columns, source);
  const size_t num_panels = round_up(w.rows, kGroup) / kGroup, bytes = panel_bytes(w.dtype, w.columns);
  const size_t whole_bytes = panel_bytes(dtype, w.columns), low_bytes = lower_bytes(w.dtype, w.columns);
  auto *data = static_cast<std::byte *>(const_cast<void *>(w.data));
  Threads threads;
  if (uint64_t{w.count} * w.rows * w.columns < (1u << 18) || !threads.start(num_threads)) threads.start(1);
  Array<std::byte> unsplit;  // a panel for each thread
  if (is_split && !unsplit.allocate(threads.size() * whole_bytes)) return THALOOM_NO_MEMORY;
  std::atomic<bool> is_sound{true};
  threads.run([&](uint32_t thread) {
    const auto [begin, end] = share(w.count * num_panels, thread, threads.size());
    for (size_t i = begin; i < end; ++i) {
      const size_t matrix = i / num_panels, row = i % num_panels * kGroup;
      std::byte *const panel = is_split ? unsplit.begin() + thread * whole_bytes : data + i * bytes;
      if (!is_whole(w.dtype)) pack_float_panel(w, source, matrix, row, panel);
      else if (!packer.pack(matrix, row, panel)) is_sound.store(false, std::memory_order_relaxed);
      else if (is_split) split_panel(panel, w.columns, data + i * bytes, data + num_panels * bytes + i * low_bytes);
    }
  });
  return is_sound.load() ? THALOOM_OK : THALOOM_BAD_NUMBERS;
}

}  // namespace thaloom
