// Attention over keys and values as they are stored, in blocks of 16 tokens counted from position 0.
//
// One item of work is one row and one key/value head, with all query heads that share it. Keys lie transposed, so a
// vector is 16 tokens: each score is a chain over the head's columns. Values lie row by row: each output is a chain
// over the tokens in order, from the first that is visible to the last, and never touches a token that is not. The
// maximum and the sum of the exponentials run over 16 lanes from the first visible block. All of that depends on the
// row's position alone.
#pragma once

#include "functions.h"
#include "program.h"

namespace thaloom {

inline void store_key_value(const Store &at, uint32_t kv_dtype, uint32_t num_kv_heads, uint32_t head_size,
                            uint32_t value_size, char *block, uint32_t token, const float *k, const float *v,
                            size_t value_step) {
  for (uint32_t head = 0; head < num_kv_heads; ++head, k += head_size, v += value_step) {
    char *keys = block + at.offset + head * at.head_bytes, *values = keys + at.key_bytes;
    if (kv_dtype == THALOOM_F32) {
      for (uint32_t d = 0; d < head_size; ++d) reinterpret_cast<float *>(keys)[d * kBlockTokens + token] = k[d];
      std::memcpy(values + size_t{token} * at.value_stride * 4, v, value_size * sizeof(float));
    } else {
      auto *key = reinterpret_cast<uint16_t *>(keys);
      auto *value = reinterpret_cast<uint16_t *>(values) + size_t{token} * at.value_stride;
      for (uint32_t d = 0; d < head_size; ++d)
        key[(d / 2 * kBlockTokens + token) * 2 + d % 2] = bf16_from_f32(k[d]);
      for (uint32_t d = 0; d < value_size; ++d) value[d] = bf16_from_f32(v[d]);
    }
  }
}

// One row and one key/value head.
struct AttentionItem {
  const char *pool;      // the pool, moved to this head's keys in block 0
  size_t block_bytes;
  const int32_t *table;  // the sequence's blocks
  const Store *store;
  size_t head_size, value_size;
  size_t begin, end;     // the visible positions
  size_t position;
  const float *queries;  // (heads, head_size)
  float *out;            // (heads, value_size)
  size_t num_heads;      // query heads that share these keys
  float scale, softcap;
  const double *slopes;  // one for each of them, or null
  float *scores;         // (heads, scores_stride)
  size_t scores_stride;

  size_t first_block() const { return begin / kBlockTokens; }
  size_t end_block() const { return (end + kBlockTokens - 1) / kBlockTokens; }
  const char *keys(size_t block) const { return pool + static_cast<size_t>(table[block]) * block_bytes; }
  const char *values(size_t block) const { return keys(block) + store->key_bytes; }
  size_t first_position() const { return first_block() * kBlockTokens; }  // that scores[0] belongs to
};

template <uint32_t DType, int H, int B>
THALOOM_INLINE void score_tile(const AttentionItem &item, size_t head, size_t block) {
  const char *keys[B];
  const float *q[H];
  repeat<B>([&](auto b) __attribute__((always_inline)) { keys[b] = item.keys(block + b); });
  repeat<H>([&](auto h) __attribute__((always_inline)) { q[h] = item.queries + (head + h) * item.head_size; });
  Float sums[H][B][kVectors] = {};
  const auto add = [&](size_t offset, size_t d, auto expand) __attribute__((always_inline)) {
    repeat<B>([&](auto b) __attribute__((always_inline)) {
      repeat<kVectors>([&](auto i) __attribute__((always_inline)) {
        const Float key = expand(load_bits(keys[b] + offset + i * kLanes * 4));
        repeat<H>([&](auto h) __attribute__((always_inline)) {
          sums[h][b][i] = fma(key, broadcast(q[h][d]), sums[h][b][i]);
        });
      });
    });
  };
  const size_t size = item.head_size;
  if constexpr (DType == THALOOM_F32) {
    for (size_t d = 0; d < size; ++d) add(d * 64, d, [](Bits bits) { return as_float(bits); });
  } else {
    for (size_t d = 0; d < size; d += 2) {
      add(d * 32, d, [](Bits bits) { return as_float(bits << 16); });
      if (d + 1 < size) add(d * 32, d + 1, [](Bits bits) { return as_float(bits & 0xFFFF0000u); });
    }
  }
  repeat<H>([&](auto h) __attribute__((always_inline)) {
    float *scores = item.scores + (head + h) * item.scores_stride + (block - item.first_block()) * kBlockTokens;
    repeat<B>([&](auto b) __attribute__((always_inline)) {
      repeat<kVectors>([&](auto i) __attribute__((always_inline)) {
        store(scores + b * kBlockTokens + i * kLanes, sums[h][b][i] * item.scale);
      });
    });
  });
}

inline constexpr int kTileSums = kAccumulators >= 24 ? 16 : 8;
constexpr int tile_blocks(int heads) {
  const int blocks = kTileSums / (heads * kVectors);
  return blocks < 1 ? 1 : blocks > 4 ? 4 : blocks;
}

template <uint32_t DType, int H>
void score_heads(const AttentionItem &item, size_t head) {
  constexpr int B = tile_blocks(H);
  size_t block = item.first_block();
  for (; block + B <= item.end_block(); block += B) score_tile<DType, H, B>(item, head, block);
  for (; block < item.end_block(); ++block) score_tile<DType, H, 1>(item, head, block);
}

// Scores to exponentials, zero where a token is not visible; gives their sum.
inline float exponentials(const AttentionItem &item, size_t head) {
  float *scores = item.scores + head * item.scores_stride;
  const size_t first = item.first_position(), count = item.end_block() * kBlockTokens - first;
  constexpr float kHidden = -__builtin_inff();
  if (item.softcap != 0.0f)
    for (size_t j = 0; j < count; j += kLanes) store(scores + j, soften(load(scores + j), broadcast(item.softcap)));
  if (item.slopes != nullptr) {
    const auto slope = static_cast<float>(item.slopes[head]);
    for (size_t j = 0; j < count; ++j)
      scores[j] += slope * (static_cast<float>(first + j) - static_cast<float>(item.position));
  }
  for (size_t j = 0; j < item.begin - first; ++j) scores[j] = kHidden;
  for (size_t j = item.end - first; j < count; ++j) scores[j] = kHidden;
  Group largest = load_group(scores);
  for (size_t j = kGroup; j < count; j += kGroup)
    repeat<kVectors>([&](auto i) __attribute__((always_inline)) {
      largest.part[i] = maximum(largest.part[i], load(scores + j + i * kLanes));
    });
  const Float shift = broadcast(maximum(largest));
  Group total = {};
  for (size_t j = 0; j < count; j += kGroup)
    repeat<kVectors>([&](auto i) __attribute__((always_inline)) {
      const Float score = load(scores + j + i * kLanes);
      const Float weight = score == broadcast(kHidden) ? Float{} : exp(score - shift);
      store(scores + j + i * kLanes, weight);
      total.part[i] = total.part[i] + weight;
    });
  return sum(total);
}

template <uint32_t DType, int H, int V>
THALOOM_INLINE void mix_tile(const AttentionItem &item, size_t head, size_t column, const float *totals) {
  Float sums[H][V][kVectors] = {};
  const float *weights[H];
  repeat<H>([&](auto h) __attribute__((always_inline)) {
    weights[h] = item.scores + (head + h) * item.scores_stride;
  });
  constexpr size_t kBytes = DType == THALOOM_F32 ? 4 : 2;
  const size_t stride = item.store->value_stride, first = item.first_position();
  for (size_t position = item.begin; position < item.end;) {
    const char *values = item.values(position / kBlockTokens) + column * kBytes;
    const size_t block_end = (position / kBlockTokens + 1) * kBlockTokens;
    const size_t end = block_end < item.end ? block_end : item.end;
    for (; position < end; ++position) {
      const char *value = values + position % kBlockTokens * stride * kBytes;
      repeat<V>([&](auto v) __attribute__((always_inline)) {
        repeat<kVectors>([&](auto i) __attribute__((always_inline)) {
          constexpr size_t at = (v * kGroup + i * kLanes) * kBytes;
          Float number;
          if constexpr (DType == THALOOM_F32) number = load(reinterpret_cast<const float *>(value + at));
          else number = load_bf16(reinterpret_cast<const uint16_t *>(value + at));
          repeat<H>([&](auto h) __attribute__((always_inline)) {
            sums[h][v][i] = fma(number, broadcast(weights[h][position - first]), sums[h][v][i]);
          });
        });
      });
    }
  }
  repeat<H>([&](auto h) __attribute__((always_inline)) {
    float *out = item.out + (head + h) * item.value_size + column;
    repeat<V>([&](auto v) __attribute__((always_inline)) {
      Group group;
      repeat<kVectors>([&](auto i) __attribute__((always_inline)) { group.part[i] = sums[h][v][i] / totals[h]; });
      store_part(out + v * kGroup, group, item.value_size - column - v * kGroup);
    });
  });
}

template <uint32_t DType, int H>
void mix_heads(const AttentionItem &item, size_t head, const float *totals) {
  constexpr int V = tile_blocks(H);
  size_t column = 0;
  for (; column + (V - 1) * kGroup < item.value_size; column += V * kGroup)
    mix_tile<DType, H, V>(item, head, column, totals);
  for (; column < item.value_size; column += kGroup) mix_tile<DType, H, 1>(item, head, column, totals);
}

template <uint32_t DType, int H>
void attend_heads(const AttentionItem &item, size_t head) {
  for (; head + H <= item.num_heads; head += H) {
    float totals[H];
    score_heads<DType, H>(item, head);
    for (int h = 0; h < H; ++h) totals[h] = exponentials(item, head + static_cast<size_t>(h));
    mix_heads<DType, H>(item, head, totals);
  }
  if constexpr (H > 1) attend_heads<DType, H / 2>(item, head);
}

inline void attend(const AttentionItem &item, uint32_t kv_dtype) {
  constexpr int kHeads = kTileSums / kVectors < 4 ? 2 : 4;
  if (kv_dtype == THALOOM_F32) attend_heads<THALOOM_F32, kHeads>(item, 0);
  else attend_heads<THALOOM_BF16, kHeads>(item, 0);
}

}  // namespace thaloom
