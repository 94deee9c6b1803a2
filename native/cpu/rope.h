// Rotary positions: the angles of a step in double precision, then plain rotations without fused operations, so that
// every element comes out the same in vectors of any width.
#pragma once

#include <cmath>

#include "program.h"

namespace thaloom {

// cosines[pairs], sines[pairs] for one position.
inline void turn_row(const double *frequencies, uint32_t pairs, double factor, int32_t position, float *angles) {
  for (uint32_t i = 0; i < pairs; ++i) {
    const double angle = static_cast<double>(position) * frequencies[i];
    angles[i] = static_cast<float>(std::cos(angle) * factor);
    angles[pairs + i] = static_cast<float>(std::sin(angle) * factor);
  }
}

inline void rope_head(const float *x, const float *angles, float *out, uint32_t head_size, uint32_t pairs,
                      bool is_interleaved) {
  const float *cosines = angles, *sines = angles + pairs;
  const uint32_t step = is_interleaved ? 2 : 1, apart = is_interleaved ? 1 : pairs;
  uint32_t i = 0;
  for (; !is_interleaved && i + kLanes <= pairs; i += kLanes) {  // the same operations on the same numbers, side by side
    const Float first = load(x + i), second = load(x + i + apart), cosine = load(cosines + i), sine = load(sines + i);
    store(out + i, first * cosine - second * sine);
    store(out + i + apart, second * cosine + first * sine);
  }
  for (; i < pairs; ++i) {
    const float first = x[i * step], second = x[i * step + apart];
    out[i * step] = first * cosines[i] - second * sines[i];
    out[i * step + apart] = second * cosines[i] + first * sines[i];
  }
  for (uint32_t d = 2 * pairs; d < head_size; ++d) out[d] = x[d];
}

}  // namespace thaloom
