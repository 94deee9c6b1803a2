// Keys and values as they are kept, in blocks of 16 tokens counted from position 0.
//
// They lie in cells of 32 bits: one f32, two bf16 or f16, or four int8. A vector of keys is one cell of each of 16
// tokens, and the cell runs along the head's columns; a vector of values is one cell of each of 16 columns, and the cell
// runs along the tokens. So both products of attention are sums over cells, with 16 independent results in the lanes, and neither
// needs a sum across lanes. int8 has one f32 scale for each token's keys and one for its values.
//
// Where the build has dot products of bf16 pairs, bf16 and int8 go through them (every int8 is a number of bf16, to the
// bit) and what they are multiplied with is rounded to bf16 once. Else, and for f32 and f16 always, it is multiply-add
// in f32. f16 keeps three bits more of a number than bf16, for twice the multiplications; beyond 65,504 it is cut off.
#pragma once

#include "f16.h"
#include "functions.h"
#include "program.h"

namespace thaloom {

struct Span {  // of positions, blocks or cells
  size_t begin, end;
};

template <uint32_t DType>
struct Cells {
  static constexpr size_t kNumbers = numbers_in_cell(DType);
  static constexpr size_t kInBlock = kBlockTokens / kNumbers;  // cells of values in a block
  static constexpr bool kPairs = kHasBF16 && (DType == THALOOM_BF16 || DType == THALOOM_I8);
  static constexpr int kSteps = kPairs ? kNumbers / 2 : kNumbers;  // multiplications that a cell takes
  static constexpr bool kScaled = DType == THALOOM_I8;

  // Of each cell, what step number `Step` multiplies.
  template <int Step>
  static THALOOM_INLINE Bits operand(Bits cells) {
    if constexpr (kScaled && kPairs)
      return as_bits(number<2 * Step>(cells)) >> 16 | (as_bits(number<2 * Step + 1>(cells)) & 0xFFFF0000u);
    else if constexpr (kScaled) return as_bits(number<Step>(cells));
    else if constexpr (DType == THALOOM_F16) return as_bits(widen_f16(Step == 0 ? cells << 16 : cells & 0xFFFF0000u));
    else if constexpr (kPairs || DType == THALOOM_F32) return cells;
    else return Step == 0 ? cells << 16 : cells & 0xFFFF0000u;
  }

  // sum + operand * word, where the word is what `store_words` left for this step.
  static THALOOM_INLINE Float add(Float sum, Bits operand, const float *word) {
#if defined(THALOOM_HAS_BF16)
    if constexpr (kPairs) return dot_pairs(sum, operand, broadcast_bits(word));
#endif
    return fma(as_float(operand), broadcast(*word), sum);
  }

  // Sixteen numbers as the words they are multiplied as: pairs of bf16, or as they are. Eight or sixteen floats' room.
  static THALOOM_INLINE void store_words(float *words, const Group &group) {
    if constexpr (kPairs) store_bf16(reinterpret_cast<uint16_t *>(words), group);
    else store_group(words, group);
  }

  // Words of `count` numbers that stand in whole cells.
  static constexpr size_t num_words(size_t count) { return (count + kNumbers - 1) / kNumbers * kSteps; }

  // Cells of values that a span of positions lies in, to its end; and those that lie in it whole.
  static constexpr size_t cells(size_t end) { return (end + kNumbers - 1) / kNumbers; }
  static constexpr Span whole(Span seen) { return {cells(seen.begin), seen.end / kNumbers}; }

  // The bits of those numbers of a cell whose positions are in the span.
  static constexpr uint32_t mask(Span seen, size_t cell) {
    uint32_t bits = 0;
    for (size_t i = 0; i < kNumbers; ++i)
      if (cell * kNumbers + i >= seen.begin && cell * kNumbers + i < seen.end)
        bits |= (kNumbers == 1 ? ~0u : (1u << (32 / kNumbers % 32)) - 1) << i * (32 / kNumbers % 32);
    return bits;
  }

 private:
  template <int I>
  static THALOOM_INLINE Float number(Bits cells) {
    using Signed = int32_t __attribute__((vector_size(kLanes * 4)));
    return __builtin_convertvector(reinterpret_cast<Signed>(cells << (24 - 8 * I)) >> 24, Float);
  }
};

// One scale for `count` numbers, and the inverse that makes them whole. The same numbers as hal.quantise.quantise_kv.
struct WholeScale {
  float scale, inverse;
};
inline WholeScale whole_scale(const float *x, size_t count) {
  float largest = 0.0f;
  for (size_t i = 0; i < count; ++i) {
    const float size = __builtin_fabsf(x[i]);
    largest = size > largest || size != size ? size : largest;
  }
  if (!(largest <= __FLT_MAX__)) return {__builtin_nanf(""), 0.0f};  // an infinity or NaN: the token has no value
  if (largest < 1e-30f) return {0.0f, 0.0f};
  const float scale = largest / 127.0f;
  return {scale, 1.0f / scale};
}

inline int8_t to_whole(float x, float inverse) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest whole number, ties to even
  const float scaled = inverse == 0.0f ? 0.0f : x * inverse;
  const float whole = (scaled + kMagic) - kMagic;
  return static_cast<int8_t>(whole > 127.0f ? 127.0f : whole < -127.0f ? -127.0f : whole);
}

// A number too large for f16 is cut off; NaN and infinities stay what they are.
inline uint16_t kept_f16(float x) {
  if (x != x) return 0x7E00;
  const float most = 65504.0f;
  return f16_from_f32(__builtin_isinf(x) ? x : x > most ? most : x < -most ? -most : x);
}

// One head of one token. `values_are_keys`: v is the beginning of k, and has its scale.
template <uint32_t DType>
void keep_head(const Store &at, char *head, uint32_t token, const float *k, size_t head_size, const float *v,
               size_t value_size, bool values_are_keys) {
  using C = Cells<DType>;
  constexpr bool kIsHalf = DType == THALOOM_BF16 || DType == THALOOM_F16;
  using Number = std::conditional_t<DType == THALOOM_F32, float,
                                    std::conditional_t<kIsHalf, uint16_t, int8_t>>;
  WholeScale scale = {1.0f, 1.0f};
  const auto number = [&](float x) {
    if constexpr (DType == THALOOM_F32) return x;
    else if constexpr (DType == THALOOM_BF16) return bf16_from_f32(x);
    else if constexpr (DType == THALOOM_F16) return kept_f16(x);
    else return to_whole(x, scale.inverse);
  };
  char *keys = head, *values = head + at.values;
  if constexpr (C::kScaled) {
    scale = whole_scale(k, head_size);
    std::memcpy(head + at.key_scales + token * sizeof(float), &scale.scale, sizeof(float));
  }
  for (size_t d = 0; d < head_size; d += C::kNumbers) {
    Number cell[C::kNumbers] = {};  // zeros beyond the head's last column
    for (size_t i = 0; i < C::kNumbers && d + i < head_size; ++i) cell[i] = number(k[d + i]);
    std::memcpy(keys + (d / C::kNumbers * kBlockTokens + token) * 4, cell, 4);
  }
  if constexpr (C::kScaled) {
    if (!values_are_keys) scale = whole_scale(v, value_size);
    std::memcpy(head + at.value_scales + token * sizeof(float), &scale.scale, sizeof(float));
  }
  char *column = values + token / C::kNumbers * at.value_stride * 4 + token % C::kNumbers * sizeof(Number);
  for (size_t e = 0; e < value_size; ++e, column += 4) {
    const Number kept = number(v[e]);
    std::memcpy(column, &kept, sizeof kept);
  }
}

}  // namespace thaloom
