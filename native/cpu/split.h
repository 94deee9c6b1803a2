// int8_split: numbers of 8 bits whose upper six lie apart from their lower two.
//
// A number stored as s (its value + 128) is 4 * (s / 4) + s % 4. What the upper bits leave open of a product with a row x
// of activations is at most |x| times the length of (scale * (s % 4 - 2)), by Cauchy and Schwarz; each row's length is
// packed beside its scales. So the upper bits of a vocabulary tell, of nearly every token, that it is not the likeliest.
//
// 32 inputs of 16 rows are eight vectors of 64 bytes, as whole.h says. Their parts:
//   upper   4 x 64 bytes   bits 4 to 7, of two vectors in one: the earlier in the low halves of its bytes
//           2 x 64 bytes   bits 2 and 3, of four vectors in one: vector v in bits 2 * (v % 4) and the next
//   lower   2 x 64 bytes   bits 0 and 1, likewise
// A panel of upper parts: scales of f16, 16 lengths of f32, the groups. All of them, then all lower parts, panel by panel.
#pragma once

#include <cmath>

#include "whole.h"

namespace thaloom {

inline constexpr uint32_t kMiddle = 2;  // what stands for lower bits that are not read

constexpr size_t lower_bytes(uint32_t dtype, size_t columns) {
  return dtype == THALOOM_INT8_SPLIT ? columns / kWholeGroup * kLowerBytes : 0;
}

// How long what the lower bits are worth can be, of 16 rows.
inline const float *lower_lengths(const std::byte *panel, size_t columns) {
  return reinterpret_cast<const float *>(panel + whole_scale_bytes(THALOOM_INT8_SPLIT, columns)) - kGroup;
}

// The six upper bits of the four inputs in each lane, in their place. `V`: which of the eight vectors; `at`: what the
// group's upper part holds for these lanes.
template <int V>
THALOOM_INLINE Bits upper_bits(const std::byte *at) {
  const Bits both = load_bits(at + V / 2 * 64), pairs = load_bits(at + 4 * 64 + V / 4 * 64);
  const Bits high = (V % 2 ? both : both << 4) & 0xF0F0F0F0u;
  return high | ((V % 4 < 2 ? pairs << (2 - V % 4 * 2) : pairs >> (V % 4 * 2 - 2)) & 0x0C0C0C0Cu);
}

template <int V>
THALOOM_INLINE Bits lower_bits(const std::byte *at) {
  return (load_bits(at + V / 4 * 64) >> (V % 4 * 2)) & 0x03030303u;
}

// From a panel of int8_groups.
inline void split_panel(const std::byte *from, size_t columns, std::byte *upper, std::byte *lower) {
  const size_t num_groups = columns / kWholeGroup;
  const size_t scale_bytes = whole_scale_bytes(THALOOM_INT8_GROUPS, columns);
  double left_open[kGroup] = {}, all[kGroup] = {};  // squares of lengths
  std::memcpy(upper, from, scale_bytes);
  const auto *numbers = reinterpret_cast<const uint8_t *>(from + scale_bytes);
  auto *high = reinterpret_cast<uint8_t *>(upper + whole_scale_bytes(THALOOM_INT8_SPLIT, columns));
  auto *low = reinterpret_cast<uint8_t *>(lower);
  std::memset(high, 0, num_groups * kUpperBytes);
  std::memset(low, 0, num_groups * kLowerBytes);
  for (size_t group = 0; group < num_groups; ++group, high += kUpperBytes, low += kLowerBytes)
    for (size_t v = 0; v < 8; ++v)
      for (size_t i = 0; i < 64; ++i, ++numbers) {
        const uint32_t s = *numbers;
        high[v / 2 * 64 + i] |= static_cast<uint8_t>(s >> 4 << (v % 2 * 4));
        high[4 * 64 + v / 4 * 64 + i] |= static_cast<uint8_t>((s >> 2 & 3) << (v % 4 * 2));
        low[v / 4 * 64 + i] |= static_cast<uint8_t>((s & 3) << (v % 4 * 2));
        const double scale = whole_scale(THALOOM_INT8_GROUPS, from, i / 4, group * kWholeGroup);
        const double open = scale * (static_cast<int32_t>(s % 4) - static_cast<int32_t>(kMiddle));
        const double value = scale * (static_cast<int32_t>(s) - 128);
        left_open[i / 4] += open * open;
        all[i / 4] += value * value;
      }
  // The sums of a tile are rounded after each group, and so are those that stand for them: what that can come to is
  // below a part in 2^22 a group of the length of all. Rounded up, and more than that.
  auto *lengths = reinterpret_cast<float *>(upper + scale_bytes);
  for (size_t lane = 0; lane < kGroup; ++lane)
    lengths[lane] = static_cast<float>(1.0001 * std::sqrt(left_open[lane]) +
                                       static_cast<double>(num_groups) * 0x1p-21 * std::sqrt(all[lane]));
}

// Back to a panel of int8_groups, as the tiles read it.
inline void join_panel(const std::byte *upper, const std::byte *lower, size_t columns, std::byte *to) {
  const size_t scale_bytes = whole_scale_bytes(THALOOM_INT8_GROUPS, columns);
  std::memcpy(to, upper, scale_bytes);
  upper += whole_scale_bytes(THALOOM_INT8_SPLIT, columns);
  to += scale_bytes;
  for (size_t group = 0; group < columns / kWholeGroup; ++group, upper += kUpperBytes, lower += kLowerBytes)
    repeat<8>([&](auto v) __attribute__((always_inline)) {
      for (size_t at = 0; at < 64; at += kLanes * 4, to += kLanes * 4)
        *reinterpret_cast<BitsInMemory *>(to) = upper_bits<v>(upper + at) | lower_bits<v>(lower + at);
    });
}

// Number `k` of a row, whose panel's upper and lower parts begin there.
inline int32_t split_number(const uint8_t *high, const uint8_t *low, size_t lane, size_t k) {
  const size_t group = k / kWholeGroup, v = k % kWholeGroup / 4, i = lane * 4 + k % 4;
  high += group * kUpperBytes + i;
  low += group * kLowerBytes + i;
  const auto pair = [&](const uint8_t *pairs) { return pairs[v / 4 * 64] >> (v % 4 * 2) & 3; };
  return ((high[v / 2 * 64] >> (v % 2 * 4) & 15) << 4 | pair(high + 4 * 64) << 2 | pair(low)) - 128;
}

// How long a row of activations is, as its whole numbers say, rounded up. Infinite where a number is not finite, or from
// 1e25 on: long before a sum could overflow.
inline float length_of(const WholeInputs *x, size_t columns) {
  double total = 0;
  for (size_t group = 0; group < columns / kWholeGroup; ++group) {
    int32_t squares = 0;
    for (const int8_t number : x[group].numbers) squares += number * number;
    total += double{x[group].scale} * double{x[group].scale} * squares;
  }
  const double length = 1.0001 * std::sqrt(total);
  return length < 1e25 ? static_cast<float>(length) : __builtin_inff();
}

}  // namespace thaloom
