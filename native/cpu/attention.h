// Attention of a few rows of one sequence through one key/value head, segment by segment.
//
// A segment is 256 positions, counted from position 0. For one query (a row and one of its heads) a segment gives a
// part: the largest score, the sum of the exponentials, and the values they weigh. Parts are merged in order of
// position. Within a part each score is a chain over the head's columns, and each output a chain over the visible
// tokens in order, whole cells at a time, with what is not visible taken out of the cells at either end. All of that
// depends on the row's own position alone: not on the queries that share a load of keys, not on the thread, not on
// when parts are merged. See docs/decisions/0009.
#pragma once

#include "attention_tiles.h"

namespace thaloom {

inline constexpr size_t kItemQueries = 48;  // queries that go over a segment while it stays in the second cache

// Rows of one sequence at consecutive positions, and one key/value head. Query q is row q / num_shared and, of the
// heads that share these keys, head q % num_shared.
struct AttentionItem {
  KeptHead kept;
  size_t position;  // of the first row
  size_t num_rows, num_shared;
  size_t sequence_end;  // where every row's sight ends if it is not causal, else 0
  size_t window;        // or 0
  const float *queries;  // (rows, num_shared, head_size), rows `query_stride` apart
  size_t query_stride;
  float scale, softcap;
  const double *slopes;  // one for each of the heads, or null

  size_t num_queries() const { return num_rows * num_shared; }
  Span visible(size_t row) const {
    const size_t at = position + row;
    return {window && at + 1 > window ? at + 1 - window : 0, sequence_end ? sequence_end : at + 1};
  }
  Span visible(size_t row, size_t segment) const {
    const auto [begin, end] = visible(row);
    return {begin > segment * kSegment ? begin : segment * kSegment,
            end < (segment + 1) * kSegment ? end : (segment + 1) * kSegment};
  }
  Span segments() const {  // that any of its rows sees; rows further on never see less far on either side
    return {visible(0).begin / kSegment, (visible(num_rows - 1).end + kSegment - 1) / kSegment};
  }
};

// A part for each query of an item, `stride` floats each: sums, then the largest score and the total.
struct Parts {
  float *base;
  size_t stride;

  static constexpr size_t floats(size_t value_size) { return round_up(value_size, kGroup) + kGroup; }
  float *sums(size_t query) const { return base + query * stride; }
  float &largest(size_t query) const { return base[(query + 1) * stride - kGroup]; }
  float &total(size_t query) const { return base[(query + 1) * stride - kGroup + 1]; }
  void clear(size_t num_queries) const {
    std::memset(base, 0, num_queries * stride * sizeof(float));
    for (size_t q = 0; q < num_queries; ++q) largest(q) = kHidden;
  }
};

// Into `whole`, whose parts so far lie before this one. A part that nothing was seen in changes nothing.
inline void merge(const Parts &whole, const Parts &part, size_t num_queries) {
  for (size_t q = 0; q < num_queries; ++q) {
    if (part.total(q) == 0.0f) continue;
    const float before = whole.largest(q), here = part.largest(q), largest = before > here ? before : here;
    const Float keep = exp2_below(broadcast(before - largest)), take = exp2_below(broadcast(here - largest));
    whole.largest(q) = largest;
    whole.total(q) = fma(broadcast(whole.total(q)), keep, broadcast(part.total(q)) * take)[0];
    float *sums = whole.sums(q);
    for (size_t k = 0; k < whole.stride - kGroup; k += kLanes)
      store(sums + k, fma(load(sums + k), keep, load(part.sums(q) + k) * take));
  }
}

// Where one thread keeps what it works on: the item's queries as words, products of one tile, two sets of parts.
struct AttentionScratch {
  float *words, *scores;
  Parts part, whole;

  static constexpr size_t most_queries(size_t num_shared) {
    return num_shared > kItemQueries ? num_shared : kItemQueries;
  }
  static constexpr size_t floats(size_t num_shared, size_t head_size, size_t value_size) {
    return kMostQueries * kSegment +
           most_queries(num_shared) * (round_up(head_size, kGroup) + 2 * Parts::floats(value_size));
  }
  AttentionScratch(float *base, size_t num_shared, size_t value_size) {
    const size_t count = most_queries(num_shared), stride = Parts::floats(value_size);
    scores = base;
    part = {scores + kMostQueries * kSegment, stride};
    whole = {part.base + count * stride, stride};
    words = whole.base + count * stride;
  }
};

// The item's queries as the words that keys are multiplied with, `num_words` each, zeros in the last cell's rest.
template <uint32_t DType>
void make_words(const AttentionItem &item, float *words) {
  constexpr size_t kFull = Cells<DType>::num_words(kGroup);
  const Float scale = broadcast(query_scale(item.scale, item.softcap, item.slopes != nullptr));
  const size_t head_size = item.kept.head_size, num_words = Cells<DType>::num_words(head_size);
  for (size_t row = 0; row < item.num_rows; ++row)
    for (size_t head = 0; head < item.num_shared; ++head, words += num_words) {
      const float *query = item.queries + row * item.query_stride + head * head_size;
      for (size_t d = 0, at = 0; d < head_size; d += kGroup, at += kFull) {
        alignas(64) float made[kGroup];
        Group group = load_part(query + d, head_size - d);
        for (Float &part : group.part) part = part * scale;
        Cells<DType>::store_words(made, group);
        std::memcpy(words + at, made, (num_words - at < kFull ? num_words - at : kFull) * sizeof(float));
      }
    }
}

// The values that one query sees in `cells`: those that it sees whole in one go, the others one by one, masked.
template <uint32_t DType>
void mix_own(const KeptHead &kept, Span seen, Span cells, const float *words, size_t first, float *sums) {
  using C = Cells<DType>;
  const Span whole = C::whole(seen);
  for (size_t cell = cells.begin; cell < cells.end;) {
    const bool is_whole = cell >= whole.begin && cell < whole.end;
    const size_t end = !is_whole ? cell + 1 : whole.end < cells.end ? whole.end : cells.end;
    mix_columns<DType, 1>(kept, {cell, end}, is_whole ? ~0u : C::mask(seen, cell), words, first, sums, 0);
    cell = end;
  }
}

// The part that `segment` is to the queries [query, query + Q), all of which see something of it.
template <uint32_t DType, int Q>
__attribute__((noinline)) void attend_tile(const AttentionItem &item, size_t segment, size_t query,
                                           const AttentionScratch &scratch, const Parts &parts) {
  using C = Cells<DType>;
  const size_t num_words = C::num_words(item.kept.head_size);
  Span seen[Q], common = {0, SIZE_MAX};
  for (size_t q = 0; q < Q; ++q) {
    seen[q] = item.visible((query + q) / item.num_shared, segment);
    const Span whole = C::whole(seen[q]);
    common = {whole.begin > common.begin ? whole.begin : common.begin, whole.end < common.end ? whole.end : common.end};
  }
  const Span blocks = {seen[0].begin / kBlockTokens, (seen[Q - 1].end + kBlockTokens - 1) / kBlockTokens};
  score_blocks<DType, Q>(item.kept, blocks, scratch.words + query * num_words, num_words, scratch.scores);
  for (size_t q = 0; q < Q; ++q) {
    const size_t row = (query + q) / item.num_shared, head = (query + q) % item.num_shared;
    const float slope = item.slopes == nullptr ? 0.0f : static_cast<float>(item.slopes[head]);
    const Softmax made = exponentials<DType>(item.kept, {item.softcap, slope, item.position + row}, item.slopes != nullptr,
                                             seen[q], blocks.begin, scratch.scores + q * kSegment);
    parts.largest(query + q) = made.largest;
    parts.total(query + q) = made.total;
  }
  const size_t first = blocks.begin * C::kInBlock;
  if (common.begin >= common.end) common = {SIZE_MAX, SIZE_MAX};  // nothing: each on its own
  for (size_t q = 0; q < Q; ++q) {
    const size_t begin = seen[q].begin / C::kNumbers, end = C::cells(seen[q].end);
    mix_own<DType>(item.kept, seen[q], {begin, common.begin < end ? common.begin : end},
                   scratch.scores + q * kSegment, first, parts.sums(query + q));
  }
  if (common.begin == SIZE_MAX) return;
  mix_columns<DType, Q>(item.kept, common, ~0u, scratch.scores, first, parts.sums(query), parts.stride);
  for (size_t q = 0; q < Q; ++q)
    mix_own<DType>(item.kept, seen[q], {common.end, C::cells(seen[q].end)}, scratch.scores + q * kSegment, first,
                   parts.sums(query + q));
}

// As much of `queries` as one tile takes, of the sizes there are; gives how many.
template <uint32_t DType, int Q>
size_t attend_some(const AttentionItem &item, size_t segment, Span queries, const AttentionScratch &scratch,
                   const Parts &parts) {
  if constexpr (Q > 1)
    if (queries.end - queries.begin < Q)
      return attend_some<DType, smaller_tile(Q)>(item, segment, queries, scratch, parts);
  attend_tile<DType, Q>(item, segment, queries.begin, scratch, parts);
  return Q;
}

// The part that `segment` is to each query of the item; to those that see nothing of it, an empty one.
template <uint32_t DType>
void attend_segment(const AttentionItem &item, size_t segment, const AttentionScratch &scratch, const Parts &parts) {
  parts.clear(item.num_queries());
  size_t begin = 0, end = item.num_rows;  // the rows that see something stand together
  const auto sees = [&](size_t row) {
    const Span seen = item.visible(row, segment);
    return seen.begin < seen.end;
  };
  while (begin < end && !sees(begin)) ++begin;
  while (begin < end && !sees(end - 1)) --end;
  Span queries = {begin * item.num_shared, end * item.num_shared};
  while (queries.begin < queries.end)
    queries.begin += queries.end - queries.begin > kMostQueries
                         ? attend_some<DType, kBestQueries>(item, segment, queries, scratch, parts)
                         : attend_some<DType, kMostQueries>(item, segment, queries, scratch, parts);
}

// Out come the values: of the item's rows, which are `row` and those after it, its heads from `column` on.
inline void finish(const AttentionItem &item, const Parts &whole, const Target &out, size_t row, size_t column) {
  const size_t size = item.kept.value_size;
  for (size_t q = 0; q < item.num_queries(); ++q) {
    float *sums = whole.sums(q);
    const Float total = broadcast(whole.total(q));
    for (size_t k = 0; k < size; k += kLanes) store(sums + k, load(sums + k) / total);
    out.write(row + q / item.num_shared, column + q % item.num_shared * size, sums, size);
  }
}

// The whole of it by one thread.
template <uint32_t DType>
void attend(const AttentionItem &item, const AttentionScratch &scratch, const Target &out, size_t row, size_t column) {
  make_words<DType>(item, scratch.words);
  scratch.whole.clear(item.num_queries());
  const auto [begin, end] = item.segments();
  for (size_t segment = begin; segment < end; ++segment) {
    attend_segment<DType>(item, segment, scratch, scratch.part);
    merge(scratch.whole, scratch.part, item.num_queries());
  }
  finish(item, scratch.whole, out, row, column);
}

}  // namespace thaloom
