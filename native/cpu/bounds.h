// The likeliest token of each of a few rows without reading all of every weight: what the upper bits of a vocabulary's
// weights (split.h) say that its logits are not above.
//
// Where few rows are decoded, a step is as fast as memory gives weights, and a vocabulary is a large part of them. So a
// greedy step reads the upper bits of all of it, and the lower bits only of panels that may hold a logit above all that
// were found so far. What it finds is what the full product finds, to the bit: docs/decisions/0039.
#pragma once

#include <cmath>
#include <utility>

#include "highest.h"
#include "inputs.h"
#include "matrix.h"

namespace thaloom {

inline constexpr size_t kBoundedRows = 4;     // of more, so many panels stay open that it gains nothing
inline constexpr size_t kBoundedPanels = 64;  // that one look goes over

// What holds for all panels of one product.
class Bounds {
 public:
  // False where bounds would not hold, or tell nothing.
  bool begin(const Matrices &w, const Inputs &in, size_t num_rows, const Scaling &scaling) {
    if (w.dtype != THALOOM_INT8_SPLIT || num_rows > kBoundedRows || !scaling.keeps_order()) return false;
    w_ = w;
    factor_ = scaling.factor;
    for (size_t r = 0; r < num_rows; ++r) {
      lengths_[r] = length_of(reinterpret_cast<const WholeInputs *>(in.at(r)), w.columns);
      if (lengths_[r] == __builtin_inff()) return false;
    }
    return true;
  }

  // Whether one of the 16 logits of a panel may be `least` or more, after what the upper bits give of a row.
  bool leaves_open(size_t row, size_t panel, const float *sums, float least) const {
    const Group x = load_group(sums), lower = load_group(lower_lengths(w_.panel(0, panel), w_.columns));
    bool is_open = false;
    repeat<kVectors>([&](auto i) __attribute__((always_inline)) {
      const Float bound = fma(lower.part[i], broadcast(lengths_[row]), x.part[i]) * factor_;
      is_open |= any(bound >= broadcast(least));
    });
    return is_open;
  }

  // What a bound is at least of a logit as high as `found`. lower_lengths covers rounding relative to the sums; scales so
  // small that their products are denormal lose up to 2e-37 more, hence 1e-30. The rest is caution.
  static float least_of(float found) { return found - std::abs(found) * 0x1p-20f - 1e-30f; }

  void fetch_lower(size_t panel) const { w_.fetch_lower(panel); }

 private:
  Matrices w_;
  float factor_ = 1.0f;
  float lengths_[kBoundedRows] = {};
};

// Which of up to 64 panels from `first` on are left open, a bit each.
class OpenPanels {
 public:
  OpenPanels(const Bounds &bounds, Highest &highest, size_t num_rows, size_t first)
      : bounds_(bounds), highest_(highest), num_rows_(num_rows), first_(first) {
    learn();
  }

  // Takes up what was found meanwhile.
  void learn() {
    for (size_t r = 0; r < num_rows_; ++r) least_[r] = Bounds::least_of(highest_.found(r));
  }

  // What the upper bits give of a row, from column `column` on.
  void look(size_t row, size_t column, const float *x, size_t count) {
    for (size_t k = 0; k < count; k += kGroup) {
      const size_t panel = (column + k) / kGroup;
      const uint64_t bit = uint64_t{1} << (panel - first_);
      if ((bits_ & bit) != 0 || !bounds_.leaves_open(row, panel, x + k, least_[row])) continue;
      bits_ |= bit;
      bounds_.fetch_lower(panel);  // it is looked at in full a little later
    }
  }

  // Those since the last time, as bits.
  uint64_t take() { return std::exchange(bits_, 0); }

 private:
  const Bounds &bounds_;
  Highest &highest_;
  size_t num_rows_, first_;
  float least_[kBoundedRows];
  uint64_t bits_ = 0;
};

}  // namespace thaloom
