// The two products of attention over tiles that fit the registers, and the exponentials between them.
//
// A tile is a few queries times a few blocks of keys, or times a few groups of 16 columns of values: what is loaded
// once serves all of its queries. Every sum in it is a chain of its own, so its shape does not show in the results.
#pragma once

#include "kv_store.h"

namespace thaloom {

inline constexpr size_t kSegment = 256;  // positions; see attention.h
inline constexpr size_t kSegmentBlocks = kSegment / kBlockTokens;
inline constexpr float kHidden = -__builtin_inff();

// Queries in a tile: seven are a whole group of some models; of many, six with four blocks each are quickest. There is
// no tile of five: what is seldom needed is not worth its code.
inline constexpr int kBestQueries = kAccumulators / kVectors < 6 ? kAccumulators / kVectors : 6;
inline constexpr int kMostQueries = kLanes == 16 ? 7 : kBestQueries;
constexpr int smaller_tile(int queries) { return queries == 6 ? 4 : queries - 1; }

// Blocks, or groups of columns, in a tile of so many queries.
constexpr int tile_width(int queries) {
  const int width = kAccumulators / (queries * kVectors);
  return width >= 4 ? 4 : width >= 2 ? 2 : 1;
}

// The blocks of one sequence, as one key/value head sees them.
struct KeptHead {
  const char *pool;  // moved to this head in block 0
  size_t block_bytes;
  const int32_t *table;
  const Store *store;
  size_t head_size, value_size;
  size_t num_blocks;  // that the table has and somebody sees

  const char *keys(size_t block) const { return pool + static_cast<size_t>(table[block]) * block_bytes; }
  const char *values(size_t block) const { return keys(block) + store->values; }
  // What is read after the values of a block: those of the next one, or the next segment's first keys.
  const char *after(size_t block) const {
    if (block + 1 >= num_blocks) return values(block);
    return (block + 1) % kSegmentBlocks ? values(block + 1) : keys(block + 1);
  }
  const float *key_scales(size_t block) const {
    return reinterpret_cast<const float *>(keys(block) + store->key_scales);
  }
  const float *value_scales(size_t block) const {
    return reinterpret_cast<const float *>(keys(block) + store->value_scales);
  }
};

// scores[q][0 .. B * 16) = queries q times the keys of B blocks. Scores of a query are kSegment apart. What is read
// next lies anywhere in memory, so it is asked for by hand: as much from `ahead[b]` on as keys are read here.
template <uint32_t DType, int Q, int B>
THALOOM_INLINE void score_tile(const KeptHead &kept, size_t block, const char *const (&ahead)[B], const float *words,
                               size_t num_words, float *scores) {
  using C = Cells<DType>;
  const char *keys[B];
  const float *word[Q];
  repeat<B>([&](auto b) __attribute__((always_inline)) { keys[b] = kept.keys(block + b); });
  repeat<Q>([&](auto q) __attribute__((always_inline)) { word[q] = words + q * num_words; });
  Float sums[Q][B][kVectors] = {};
  size_t cell = 0;
  for (size_t at = 0; at < num_words; at += C::kSteps, cell += 64) {
    repeat<B>([&](auto b) __attribute__((always_inline)) { __builtin_prefetch(ahead[b] + cell, 0, 2); });
    repeat<C::kSteps>([&](auto step) __attribute__((always_inline)) {
      repeat<B>([&](auto b) __attribute__((always_inline)) {
        repeat<kVectors>([&](auto i) __attribute__((always_inline)) {
          const Bits key = C::template operand<step>(load_bits(keys[b] + cell + i * kLanes * 4));
          repeat<Q>([&](auto q) __attribute__((always_inline)) {
            sums[q][b][i] = C::add(sums[q][b][i], key, word[q] + at + step);
          });
        });
      });
    });
  }
  repeat<Q>([&](auto q) __attribute__((always_inline)) {
    repeat<B>([&](auto b) __attribute__((always_inline)) {
      repeat<kVectors>([&](auto i) __attribute__((always_inline)) {
        store(scores + q * kSegment + b * kBlockTokens + i * kLanes, sums[q][b][i]);
      });
    });
  });
}

template <uint32_t DType, int Q>
void score_blocks(const KeptHead &kept, Span blocks, const float *words, size_t num_words, float *scores) {
  constexpr int B = tile_width(Q);
  const auto next = [&](size_t block) {  // after the last keys come the first values
    return block < blocks.end ? kept.keys(block) : kept.values(blocks.begin + (block - blocks.end) % B);
  };
  size_t block = blocks.begin;
  for (; block + B <= blocks.end; block += B, scores += B * kBlockTokens) {
    const char *ahead[B];
    for (size_t b = 0; b < B; ++b) ahead[b] = next(block + B + b);
    score_tile<DType, Q, B>(kept, block, ahead, words, num_words, scores);
  }
  if constexpr (B > 1)
    for (; block < blocks.end; ++block, scores += kBlockTokens) {
      const char *ahead[1] = {next(block + 1)};
      score_tile<DType, Q, 1>(kept, block, ahead, words, num_words, scores);
    }
}

// What else makes one query's products scores, in powers of two: queries come with their scale in them already.
struct Scoring {
  float softcap, slope;  // 0: none
  size_t position;
};
inline constexpr float kLog2E = 1.44269504088896341f;

// What a query's words are multiplied by first.
inline float query_scale(float scale, float softcap, bool has_slopes) {
  return softcap != 0.0f || has_slopes ? scale : scale * kLog2E;
}

struct Softmax {
  float largest, total;
};

// Products of one block with what comes between them and their exponentials.
template <uint32_t DType>
void adjust(const KeptHead &kept, const Scoring &by, bool has_slope, size_t block, float *score) {
  for (size_t j = 0; j < kBlockTokens; j += kLanes) {
    Float number = load(score + j);
    if constexpr (Cells<DType>::kScaled) number = number * load(kept.key_scales(block) + j);
    if (by.softcap != 0.0f) number = soften(number, broadcast(by.softcap));
    if (has_slope) {
      alignas(64) float distance[kLanes];
      for (size_t i = 0; i < kLanes; ++i)
        distance[i] = static_cast<float>(block * kBlockTokens + j + i) - static_cast<float>(by.position);
      number = number + broadcast(by.slope) * load(distance);
    }
    store(score + j, by.softcap != 0.0f || has_slope ? number * broadcast(kLog2E) : number);
  }
}

// One query's products with the keys from block `first` on, in place: first to scores, hidden outside `seen`; then to
// the words that weigh values, each times its value's scale. The total is of the exponentials.
template <uint32_t DType>
Softmax exponentials(const KeptHead &kept, const Scoring &by, bool has_slope, Span seen, size_t first, float *scores) {
  using C = Cells<DType>;
  constexpr size_t kBlockWords = C::num_words(kBlockTokens);
  const Span blocks = {seen.begin / kBlockTokens, (seen.end + kBlockTokens - 1) / kBlockTokens};
  float *const begin = scores + (blocks.begin - first) * kBlockTokens;
  const size_t count = (blocks.end - blocks.begin) * kBlockTokens;
  if (C::kScaled || by.softcap != 0.0f || has_slope)
    for (size_t block = blocks.begin; block < blocks.end; ++block)
      adjust<DType>(kept, by, has_slope, block, scores + (block - first) * kBlockTokens);
  const size_t hidden = seen.begin % kBlockTokens, end = hidden + seen.end - seen.begin;
  for (size_t j = 0; j < hidden; ++j) begin[j] = kHidden;
  for (size_t j = end; j < count; ++j) begin[j] = kHidden;
  Group largest = load_group(begin);
  for (size_t j = kGroup; j < count; j += kGroup)
    repeat<kVectors>([&](auto i) __attribute__((always_inline)) {
      largest.part[i] = maximum(largest.part[i], load(begin + j + i * kLanes));
    });
  const float most = maximum(largest);
  const Float shift = broadcast(most);
  Group total = {};
  float *words = scores + (blocks.begin - first) * kBlockWords;  // never beyond the scores that are read next
  for (size_t j = 0; j < count; j += kGroup, words += kBlockWords) {
    Group group = load_group(begin + j);
    repeat<kVectors>([&](auto i) __attribute__((always_inline)) {
      group.part[i] = exp2_below(group.part[i] - shift);
      total.part[i] = total.part[i] + group.part[i];
    });
    if constexpr (C::kScaled) {
      Group scale = load_group(kept.value_scales(blocks.begin + j / kBlockTokens));
      if (j < hidden || j + kGroup > end)  // what is not seen may have any scale
        for (size_t i = 0; i < kGroup; ++i)
          if (j + i < hidden || j + i >= end) scale.part[i / kLanes][i % kLanes] = 0.0f;
      repeat<kVectors>([&](auto i) __attribute__((always_inline)) { group.part[i] = group.part[i] * scale.part[i]; });
    }
    C::store_words(words, group);
  }
  return {most, sum(total)};
}

// sums[q] += the values of the cells [from, to), counted from position 0, times q's words; words of a query are
// kSegment apart and begin with those of cell `first`. Of each cell only the numbers in `mask` are read.
template <uint32_t DType, int Q, int V>
THALOOM_INLINE void mix_tile(const KeptHead &kept, Span cells, uint32_t mask, const float *words, size_t first,
                             float *sums, size_t sums_stride, size_t column) {
  using C = Cells<DType>;
  const size_t row_bytes = size_t{kept.store->value_stride} * 4;
  Float mixed[Q][V][kVectors];
  const auto each = [&](auto f) __attribute__((always_inline)) {
    repeat<Q>([&](auto q) __attribute__((always_inline)) {
      repeat<V>([&](auto v) __attribute__((always_inline)) {
        repeat<kVectors>([&](auto i) __attribute__((always_inline)) {
          f(sums + q * sums_stride + column + v * kGroup + i * kLanes, mixed[q][v][i]);
        });
      });
    });
  };
  each([](float *p, Float &value) __attribute__((always_inline)) { value = load(p); });
  const float *word = words + (cells.begin - first) * C::kSteps;
  for (size_t cell = cells.begin; cell < cells.end;) {
    const size_t block = cell / C::kInBlock, offset = cell % C::kInBlock * row_bytes + column * 4;
    const char *row = kept.values(block) + offset, *ahead = kept.after(block) + offset;
    const size_t end = (block + 1) * C::kInBlock < cells.end ? (block + 1) * C::kInBlock : cells.end;
    for (; cell < end; ++cell, row += row_bytes, ahead += row_bytes, word += C::kSteps) {
      repeat<V>([&](auto v) __attribute__((always_inline)) { __builtin_prefetch(ahead + v * 64, 0, 2); });
      repeat<C::kSteps>([&](auto step) __attribute__((always_inline)) {
        repeat<V>([&](auto v) __attribute__((always_inline)) {
          repeat<kVectors>([&](auto i) __attribute__((always_inline)) {
            const Bits value = C::template operand<step>(load_bits(row + (v * kGroup + i * kLanes) * 4) & mask);
            repeat<Q>([&](auto q) __attribute__((always_inline)) {
              mixed[q][v][i] = C::add(mixed[q][v][i], value, word + q * kSegment + step);
            });
          });
        });
      });
    }
  }
  each([](float *p, Float &value) __attribute__((always_inline)) { store(p, value); });
}

template <uint32_t DType, int Q>
void mix_columns(const KeptHead &kept, Span cells, uint32_t mask, const float *words, size_t first, float *sums,
                 size_t sums_stride) {
  constexpr size_t V = tile_width(Q);
  size_t column = 0;
  for (; column + V * kGroup <= kept.store->value_stride; column += V * kGroup)
    mix_tile<DType, Q, V>(kept, cells, mask, words, first, sums, sums_stride, column);
  if constexpr (V > 1)
    for (; column < kept.store->value_stride; column += kGroup)
      mix_tile<DType, Q, 1>(kept, cells, mask, words, first, sums, sums_stride, column);
}

}  // namespace thaloom
