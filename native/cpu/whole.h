// Matrices in whole numbers: how they lie in memory, and how rows of activations are made ready for them.
//
// A panel of 16 output features has its scales first, then its numbers, 32 inputs after 32: eight vectors of 64 bytes,
// each 16 features x 4 inputs side by side, as a dot product of four bytes takes them. Numbers are stored unsigned
// (value + 128, or + 8), because that product takes one unsigned and one signed operand; activations are the signed
// one, and what the offset adds to a sum is known from them alone. In 4 bits two such vectors share one: the earlier
// inputs in the low halves of its bytes, the later in the high halves.
//
//   int8         16 scales of f32             then for each 32 inputs 512 bytes
//   int8_groups  16 scales of f16 a group     then the same          (scales filled up to whole lines of 64 bytes)
//   int4         16 scales of f16 a group     then for each 32 inputs 256 bytes
//   int8_split   as int8_groups, with the upper bits of all panels before the lower bits of all: split.h
//
// Activations: 32 numbers within [-127, 127] with a scale; beside weights of 4 bits two such groups share theirs. One
// scale for a whole row would be cheaper, and wrong where a few channels are far larger than the rest:
// docs/decisions/0007.
#pragma once

#include "f16.h"
#include "thaloom_cpu.h"

namespace thaloom {

inline constexpr size_t kWholeGroup = 32;  // inputs whose products are one whole number

// Inputs whose activations share a scale. That of 4-bit weights is used once for 64, where theirs is for 32.
constexpr size_t whole_reach(uint32_t dtype) { return dtype == THALOOM_INT4 ? 2 * kWholeGroup : kWholeGroup; }

constexpr bool is_whole(uint32_t dtype) {
  return (dtype >= THALOOM_INT8 && dtype <= THALOOM_INT4) || dtype == THALOOM_INT8_SPLIT;
}

// Of int8_split: the upper bits alone, as Matrices::upper gives them. Nothing is packed as that.
inline constexpr uint32_t kInt8Upper = 1u << 16;
constexpr bool is_split(uint32_t dtype) { return dtype == THALOOM_INT8_SPLIT || dtype == kInt8Upper; }
inline constexpr size_t kUpperBytes = 384, kLowerBytes = 128;  // of 32 inputs

// Of 32 inputs, as they follow one another.
constexpr size_t whole_group_bytes(uint32_t dtype) {
  if (is_split(dtype)) return kUpperBytes;
  return dtype == THALOOM_INT4 ? 256 : 512;
}

// What stands before the numbers of a panel: scales, and in int8_split what its lower bits can be worth.
inline size_t whole_scale_bytes(uint32_t dtype, size_t columns) {
  if (dtype == THALOOM_INT8) return 64;
  return round_up(columns / kWholeGroup * 32, 64) + (is_split(dtype) ? 64 : 0);
}

inline size_t whole_panel_bytes(uint32_t dtype, size_t columns) {
  return whole_scale_bytes(dtype, columns) + columns / kWholeGroup * whole_group_bytes(dtype);
}

// 32 activations in whole numbers: x[i] = numbers[i] * scale.
struct WholeInputs {
  int8_t numbers[kWholeGroup];
  float scale;
  int32_t correction;  // -128 times their sum
};
static_assert(sizeof(WholeInputs) == 40);

using Ints = int32_t __attribute__((vector_size(kLanes * 4)));

// All lanes joined by `op`, by halves: one lane after another took half the time of making a row ready.
template <class Lanes, class Op>
THALOOM_INLINE uint32_t reduce(Lanes lanes, const Op &op) {
  using Four = uint32_t __attribute__((vector_size(16)));
  using Eight = uint32_t __attribute__((vector_size(32)));
  const auto join = [&](auto (&halves)[2]) __attribute__((always_inline)) {
    std::memcpy(halves, &lanes, sizeof lanes);
    return reduce(op(halves[0], halves[1]), op);
  };
  if constexpr (sizeof lanes == 16) {
    lanes = op(lanes, __builtin_shuffle(lanes, Four{2, 3, 0, 1}));
    return op(lanes, __builtin_shuffle(lanes, Four{1, 0, 3, 2}))[0];
  } else if constexpr (sizeof lanes == 32) {
    Four halves[2];
    return join(halves);
  } else {
    Eight halves[2];
    return join(halves);
  }
}

inline constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: added and taken away, it leaves the nearest whole number

// The largest magnitude of `count` floats; NaN and infinity are larger than every number.
inline float largest_magnitude(const float *x, size_t count) {
  Bits largest = {};
  for (size_t i = 0; i < count; i += kLanes) {
    const Bits magnitude = load_bits(x + i) & 0x7FFFFFFFu;
    largest = magnitude > largest ? magnitude : largest;
  }
  return as_float(reduce(largest, [](auto a, auto b) { return a > b ? a : b; }));
}

// One row of activations, `columns` a multiple of 32, `Reach` of them with one scale. A number that is not finite makes
// the scale of its group so, and any whole numbers: what counts them is unsigned, and may go round.
template <size_t Reach>
inline void make_whole_input(const float *x, size_t columns, WholeInputs *to) {
  float scale = 0.0f, inverse = 0.0f;
  for (size_t k = 0; k < columns; k += kWholeGroup, ++to) {
    if (k % Reach == 0) {
      const float largest = largest_magnitude(x + k, columns - k < Reach ? columns - k : Reach);
      scale = largest < 1e-30f ? 0.0f : largest / 127.0f;
      inverse = largest < 1e-30f ? 0.0f : 127.0f / largest;
    }
    to->scale = scale;
    Bits total = {};
    for (size_t i = 0; i < kWholeGroup; i += kLanes) {
      const Float moved = load(x + k + i) * inverse + kRounder;
      const Bits whole = as_bits(moved) - 0x4B400000u;  // the bits of kRounder
      total += whole;
      const auto narrow = __builtin_convertvector(whole, int8_t __attribute__((vector_size(kLanes))));
      std::memcpy(to->numbers + i, &narrow, sizeof narrow);
    }
    to->correction = static_cast<int32_t>(-128u * reduce(total, [](auto a, auto b) { return a + b; }));
  }
}

// Number `k` of a row of a panel whose numbers begin at `numbers`, stored unsigned. Not of int8_split.
inline int32_t whole_number(uint32_t dtype, const uint8_t *numbers, size_t lane, size_t k) {
  const size_t group = k / kWholeGroup, within = k % kWholeGroup;
  if (dtype != THALOOM_INT4) return numbers[group * 512 + within / 4 * 64 + lane * 4 + within % 4] - 128;
  const uint8_t both = numbers[group * 256 + within / 8 * 64 + lane * 4 + within % 4];
  return (within % 8 < 4 ? both & 15 : both >> 4) - 8;
}

// The scale of that number.
inline float whole_scale(uint32_t dtype, const std::byte *panel, size_t lane, size_t k) {
  if (dtype == THALOOM_INT8) return reinterpret_cast<const float *>(panel)[lane];
  return f32_from_f16(reinterpret_cast<const uint16_t *>(panel)[k / kWholeGroup * kGroup + lane]);
}

}  // namespace thaloom
