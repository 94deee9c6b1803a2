// RMS normalisation and lengths: sums of squares in 16 lanes and one tree, by groups of columns.
#pragma once

#include <cmath>

#include "simd.h"

namespace thaloom {

inline float sum_of_squares(const float *x, size_t count) {
  Group squares = {};
  for (size_t k = 0; k < count; k += kGroup) {
    const Group part = load_part(x + k, count - k);
    repeat<kVectors>([&](auto i) __attribute__((always_inline)) {
      squares.part[i] = fma(part.part[i], part.part[i], squares.part[i]);
    });
  }
  return sum(squares);
}

// One group of columns: out = x / sqrt(mean(x^2) + eps) * (offset + weight). `weight` is padded to 16.
inline void rmsnorm_group(const float *x, const float *weight, float *out, size_t count, float eps, float offset) {
  const float scale = 1.0f / std::sqrt(sum_of_squares(x, count) / static_cast<float>(count) + eps);
  for (size_t k = 0; k < count; k += kGroup) {
    Group part = load_part(x + k, count - k);
    const Group factor = load_group(weight + k);
    repeat<kVectors>([&](auto i) __attribute__((always_inline)) {
      part.part[i] = part.part[i] * scale * (offset + factor.part[i]);
    });
    store_part(out + k, part, count - k);
  }
}

// out = x, divided by its length when `normalise`.
inline void pool_row(const float *x, float *out, size_t count, bool normalise) {
  const float length = normalise ? std::sqrt(sum_of_squares(x, count)) : 1.0f;
  const float divisor = length < 1e-12f ? 1e-12f : length;
  for (size_t k = 0; k < count; ++k) out[k] = x[k] / divisor;
}

}  // namespace thaloom
