// Attention of one step: its rows cut into items, and the items, or their segments, shared among the threads.
#pragma once

#include <atomic>

#include "attention.h"
#include "inputs.h"
#include "threads.h"

namespace thaloom {

// Rows of one sequence that stand together.
struct RowRange {
  uint32_t first, count;
};

class Attention {
 public:
  // `ranges`: room for one for each row.
  Attention(const Program &program, const Operation &op, const thaloom_step &step, Threads &threads, char *pool,
            float *scratch, Array<RowRange> &ranges)
      : p_(program), op_(op), t_(op.told), step_(step), threads_(threads), pool_(pool), scratch_(scratch),
        ranges_(ranges), store_(program.stores[op.store]), out_(program.target(t_.out, scratch)),
        num_kv_heads_(t_.numbers[1]), head_size_(t_.numbers[2]), value_size_(t_.numbers[3]),
        num_shared_(t_.numbers[0] / t_.numbers[1]) {}

  void run() {
    switch (p_.kv_dtype) {
      case THALOOM_F32: return run_in<THALOOM_F32>();
      case THALOOM_BF16: return run_in<THALOOM_BF16>();
      case THALOOM_F16: return run_in<THALOOM_F16>();
      default: return run_in<THALOOM_I8>();
    }
  }

 private:
  // Multiplications and loads of a row's share from which it pays to wake the other threads.
  static constexpr size_t kWorthSharing = 65536;

  const Program &p_;
  const Operation &op_;
  const thaloom_instruction &t_;
  const thaloom_step &step_;
  Threads &threads_;
  char *pool_;
  float *scratch_;
  Array<RowRange> &ranges_;
  const Store &store_;
  const Target out_;
  const size_t num_kv_heads_, head_size_, value_size_, num_shared_;
  size_t num_ranges_ = 0;

  Rows value(int32_t slot) const { return {scratch_ + p_.slot(slot).offset, p_.slot(slot).stride}; }
  const int32_t *table(size_t row) const {
    return step_.block_tables + static_cast<size_t>(step_.sequences[row]) * step_.table_columns;
  }

  template <uint32_t DType>
  void run_in() {
    const size_t num_attended = cut();
    const size_t num_items = num_ranges_ * num_kv_heads_;
    const bool is_small = num_attended * num_shared_ * num_kv_heads_ * (head_size_ + value_size_) < kWorthSharing;
    const bool is_one = is_small || threads_.size() < 2;
    const bool is_by_segments = !is_one && num_items < 2 * threads_.size() && fits_parts();
    const bool is_kept_before = is_by_segments || !is_range_a_sequence();
    if (is_kept_before) keep_all<DType>();
    const auto attend = [&](size_t i, uint32_t thread) {
      if (!is_kept_before) keep_item<DType>(i);
      attend_item<DType>(i, thread);
    };
    if (is_by_segments) attend_segments<DType>(num_items);
    else if (is_one)
      for (size_t i = 0; i < num_items; ++i) attend(i, 0);
    else each(num_items, attend);
  }

  // Whether no item reads what another one keeps: a step that only decodes has no region of work for keeping then, and what
  // is kept is read where it was written.
  bool is_range_a_sequence() const {
    for (size_t i = 1; i < num_ranges_; ++i)
      if (step_.sequences[ranges_[i].first] == step_.sequences[ranges_[i - 1].first]) return false;
    return true;
  }

  // f(i, thread) for i in [0, count), in any order, by whichever thread is free.
  template <class F>
  void each(size_t count, const F &f) {
    std::atomic<size_t> next{0};
    threads_.run([&](uint32_t thread) {
      for (size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) f(i, thread);
    });
  }

  // The keys and values of one row and head.
  template <uint32_t DType>
  void keep(size_t r, size_t head) {
    const bool values_are_keys = t_.slots[2] == -1;
    const Rows k = value(t_.slots[1]), v = value(t_.slots[values_are_keys ? 1 : 2]);
    const auto position = static_cast<uint32_t>(step_.positions[r]);
    const auto block = static_cast<size_t>(table(r)[position / kBlockTokens]);
    keep_head<DType>(store_, pool_ + block * p_.block_bytes + store_.offset + head * store_.head_bytes,
                     position % kBlockTokens, k.at(r) + head * head_size_, head_size_,
                     v.at(r) + head * (values_are_keys ? head_size_ : value_size_), value_size_, values_are_keys);
  }

  template <uint32_t DType>
  void keep_item(size_t number) {
    const RowRange range = ranges_[number / num_kv_heads_];
    for (size_t r = range.first; r < range.first + range.count; ++r) keep<DType>(r, number % num_kv_heads_);
  }

  template <uint32_t DType>
  void keep_all() {
    const auto work = [&](uint32_t thread, size_t num_parts) {
      const auto [begin, end] = share(step_.num_rows, thread, num_parts);
      for (size_t r = begin; r < end; ++r)
        for (size_t head = 0; head < num_kv_heads_; ++head) keep<DType>(r, head);
    };
    if (step_.num_rows * num_kv_heads_ * (head_size_ + value_size_) < kWorthSharing / 4) work(0, 1);
    else threads_.run([&](uint32_t thread) { work(thread, threads_.size()); });
  }

  // Makes the ranges, of few enough rows for one item each. Gives the positions that all rows see together, about.
  size_t cut() {
    const size_t most = kItemQueries > num_shared_ ? kItemQueries / num_shared_ : 1, window = t_.numbers[5];
    size_t total = 0;
    num_ranges_ = 0;
    for (uint32_t r = 0; r < step_.num_rows; ++r) {
      const auto seen = static_cast<size_t>(step_.positions[r]) + 1;
      total += window && window < seen ? window : seen;
      const bool goes_on = r > 0 && step_.sequences[r] == step_.sequences[r - 1];
      if (goes_on && ranges_[num_ranges_ - 1].count < most) ++ranges_[num_ranges_ - 1].count;
      else ranges_[num_ranges_++] = {r, 1};
    }
    return total;
  }

  AttentionItem item(size_t number) const {
    const RowRange range = ranges_[number / num_kv_heads_];
    const size_t head = number % num_kv_heads_, r = range.first;
    size_t last = r;
    if (!t_.numbers[4])  // not causal: to the sequence's end, where its last row of this step stands
      while (last + 1 < step_.num_rows && step_.sequences[last + 1] == step_.sequences[r]) ++last;
    const auto end = static_cast<size_t>(step_.positions[t_.numbers[4] ? r + range.count - 1 : last]) + 1;
    return {.kept = {.pool = pool_ + store_.offset + head * store_.head_bytes, .block_bytes = p_.block_bytes,
                     .table = table(r), .store = &store_, .head_size = head_size_, .value_size = value_size_,
                     .num_blocks = (end + kBlockTokens - 1) / kBlockTokens},
            .position = static_cast<size_t>(step_.positions[r]),
            .num_rows = range.count,
            .num_shared = num_shared_,
            .sequence_end = t_.numbers[4] ? 0 : end,
            .window = t_.numbers[5],
            .queries = value(t_.slots[0]).at(r) + head * num_shared_ * head_size_,
            .query_stride = value(t_.slots[0]).stride,
            .scale = static_cast<float>(t_.reals[0]),
            .softcap = static_cast<float>(t_.reals[1]),
            .slopes = t_.table_length ? &p_.tables[t_.table + head * num_shared_] : nullptr};
  }

  AttentionScratch scratch_of(uint32_t thread) const {
    return {scratch_ + p_.workspaces.attention + thread * p_.workspaces.attention_stride, num_shared_, value_size_};
  }

  // Where the item's answer begins.
  size_t row(size_t number) const { return ranges_[number / num_kv_heads_].first; }
  size_t column(size_t number) const { return number % num_kv_heads_ * num_shared_ * value_size_; }

  template <uint32_t DType>
  void attend_item(size_t number, uint32_t thread) {
    attend<DType>(item(number), scratch_of(thread), out_, row(number), column(number));
  }

  // Floats of the parts of one item, all its segments together.
  size_t parts_of(const AttentionItem &of) const {
    const auto [begin, end] = of.segments();
    return (end - begin) * of.num_queries() * Parts::floats(value_size_);
  }

  bool fits_parts() const {
    size_t floats = 0;
    for (size_t i = 0; i < num_ranges_; ++i) floats += num_kv_heads_ * parts_of(item(i * num_kv_heads_));
    return floats <= p_.workspaces.parts_floats;
  }

  // Too few items for all threads: each segment of each is a task of its own, and all parts are kept until merged.
  template <uint32_t DType>
  void attend_segments(size_t num_items) {
    const size_t stride = Parts::floats(value_size_);
    const auto find = [&](size_t task, AttentionItem &of, size_t &segment) {  // also gives where its parts go
      float *base = scratch_ + p_.workspaces.parts;
      for (size_t i = 0;; ++i, base += parts_of(of)) {
        of = item(i);
        const auto [begin, end] = of.segments();
        segment = begin + task;
        if (task < end - begin) return Parts{base + task * of.num_queries() * stride, stride};
        task -= end - begin;
      }
    };
    size_t num_tasks = 0;
    for (size_t i = 0; i < num_items; ++i) {
      const auto [begin, end] = item(i).segments();
      num_tasks += end - begin;
    }
    each(num_tasks, [&](size_t task, uint32_t thread) {
      AttentionItem of;
      size_t segment;
      const Parts parts = find(task, of, segment);
      const AttentionScratch scratch = scratch_of(thread);
      make_words<DType>(of, scratch.words);
      attend_segment<DType>(of, segment, scratch, parts);
    });
    const AttentionScratch scratch = scratch_of(0);
    float *base = scratch_ + p_.workspaces.parts;
    for (size_t i = 0; i < num_items; ++i) {
      const AttentionItem of = item(i);
      const auto [begin, end] = of.segments();
      scratch.whole.clear(of.num_queries());
      for (size_t segment = begin; segment < end; ++segment, base += of.num_queries() * stride)
        merge(scratch.whole, {base, stride}, of.num_queries());
      finish(of, scratch.whole, out_, row(i), column(i));
    }
  }
};

}  // namespace thaloom
