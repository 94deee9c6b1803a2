// The likeliest token of each row, found while its logits are at hand: of a step whose tokens are chosen greedily and whose
// logits nobody reads. They are never stored.
#pragma once

#include <atomic>

#include "array.h"
#include "functions.h"
#include "sample.h"

namespace thaloom {

// What becomes of a product before it is a logit.
struct Scaling {
  float factor, softcap;  // softcap: 0 for none

  bool changes() const { return factor != 1.0f || softcap != 0.0f; }
  // With a factor up to 1 nothing overflows that did not before.
  bool keeps_order() const { return factor > 0.0f && factor <= 1.0f && softcap == 0.0f; }  // but for ties that it makes
  THALOOM_INLINE Float operator()(Float x) const {
    const Float scaled = x * factor;
    return softcap == 0.0f ? scaled : soften(scaled, broadcast(softcap));
  }
};

class Highest {
 public:
  bool allocate(size_t num_rows) { return rows_.allocate(num_rows); }

  void begin(size_t num_rows, Scaling scaling) {
    scaling_ = scaling;
    for (size_t r = 0; r < num_rows; ++r) rows_[r] = {.rank = rank_of(-__builtin_inff(), UINT32_MAX), .num_not_finite = 0};
  }

  // Products of a row, from column `first` on, by any thread. There is room for whole groups, and they are written to.
  void look(size_t row, size_t first, float *x, size_t count) {
    const size_t whole = round_up(count, kLanes);
    Seen seen;
    for (size_t k = 0; k < whole; k += kLanes) {
      if (scaling_.changes()) store(x + k, scaling_(load(x + k)));
      for (size_t lane = count; lane < k + kLanes; ++lane) x[lane] = -__FLT_MAX__;  // beyond the vocabulary
      seen.add(load(x + k));
    }
    std::atomic_ref<uint64_t> rank(rows_[row].rank);
    uint64_t best = rank.load(std::memory_order_relaxed);
    if (any(seen.bad != 0)) {
      thaloom_drawn found = {};
      seen.tell(found);
      std::atomic_ref<uint32_t>(rows_[row].num_not_finite).fetch_add(found.num_not_finite, std::memory_order_relaxed);
    }
    if (!any(seen.highest >= broadcast(logit_of(best)))) return;
    const float highest = Seen::highest_of(seen.highest);
    size_t k = 0;
    while (k < count && x[k] != highest) ++k;
    if (k == count) return;  // NaN: no token comes of this row
    const uint64_t here = rank_of(highest, static_cast<uint32_t>(first + k));
    while (best < here && !rank.compare_exchange_weak(best, here, std::memory_order_relaxed)) {}
  }

  // The highest logit of a row so far.
  float found(size_t row) {
    return logit_of(std::atomic_ref<uint64_t>(rows_[row].rank).load(std::memory_order_relaxed));
  }

  // What a greedy draw of that row gives.
  void tell(size_t row, thaloom_drawn &drawn) const {
    const Row &of = rows_[row];
    drawn = {.token = of.num_not_finite ? -1 : static_cast<int32_t>(id_of(of.rank)), .num_not_finite = of.num_not_finite,
             .highest = logit_of(of.rank), .num_top = 0, .total = 0, .further = {}};
    std::fill(drawn.further, drawn.further + THALOOM_MAX_FURTHER, -1);
  }

 private:
  struct Row {
    uint64_t rank;  // see rank_of; both are touched by atomic operations only, while threads look
    uint32_t num_not_finite;
  };
  Array<Row> rows_;
  Scaling scaling_ = {};
};

}  // namespace thaloom
