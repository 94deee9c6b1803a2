// exp, tanh and the activations, on vectors: the same value for the same number in every lane of every variant
// that has fused multiply-add. NaN goes through.
#pragma once

#include <cmath>

#include "simd.h"
#include "thaloom_cpu.h"

namespace thaloom {

// Relative error below 2 ulp on [-87, 88]; the ends beyond.
// Source: Cephes single-precision expf (S. Moshier), coefficients and the two-part ln 2.
THALOOM_INLINE Float exp(Float x) {
  const Float highest = broadcast(88.0f), lowest = broadcast(-87.0f);
  x = x > highest ? highest : x;
  x = x < lowest ? lowest : x;
  const Float magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  const Float shifted = fma(x, broadcast(1.44269504088896341f), magic);
  const Float n = shifted - magic;
  Float r = fma(n, broadcast(-0.693359375f), x);
  r = fma(n, broadcast(2.12194440e-4f), r);
  Float p = broadcast(1.9875691500e-4f);
  p = fma(p, r, broadcast(1.3981999507e-3f));
  p = fma(p, r, broadcast(8.3334519073e-3f));
  p = fma(p, r, broadcast(4.1665795894e-2f));
  p = fma(p, r, broadcast(1.6666665459e-1f));
  p = fma(p, r, broadcast(5.0000001201e-1f));
  p = fma(p, r * r, r + broadcast(1.0f));
  const Bits power = (as_bits(shifted) - as_bits(magic) + 127u) << 23;
  return p * as_float(power);
}

// 2^x for x <= 0; below -126 it stays 2^-126. Relative error below 3e-7.
// Source: minimax polynomial of degree 5 for 2^f on [-1/2, 1/2], by Remez exchange on the relative error.
THALOOM_INLINE Float exp2_below(Float x) {
  const Float lowest = broadcast(-126.0f), magic = broadcast(12582912.0f + 127.0f);  // see exp; 127: the power's bias
  x = x < lowest ? lowest : x;
  const Float shifted = x + magic;
  const Float f = x - (shifted - magic);
  Float p = broadcast(1.3264727247e-03f);
  p = fma(p, f, broadcast(9.6715126882e-03f));
  p = fma(p, f, broadcast(5.5507337436e-02f));
  p = fma(p, f, broadcast(2.4022242085e-01f));
  p = fma(p, f, broadcast(6.9314697760e-01f));
  p = fma(p, f, broadcast(1.0f));
  return p * as_float(as_bits(shifted) << 23);
}

// Source: Cephes tanhf; the polynomial below 0.625 where 1 - 2 / (e^2x + 1) would cancel.
THALOOM_INLINE Float tanh(Float x) {
  const Bits sign = as_bits(x) & 0x80000000u;
  const Float size = as_float(as_bits(x) & 0x7FFFFFFFu);
  const Float square = x * x;
  Float p = broadcast(-5.70498872745e-3f);
  p = fma(p, square, broadcast(2.06390887954e-2f));
  p = fma(p, square, broadcast(-5.37397155531e-2f));
  p = fma(p, square, broadcast(1.33314422036e-1f));
  p = fma(p, square, broadcast(-3.33332819422e-1f));
  const Float small = fma(p * square, x, x);
  const Float one = broadcast(1.0f);
  const Float large = one - broadcast(2.0f) / (exp(size + size) + one);
  return size < broadcast(0.625f) ? small : as_float(as_bits(large) | sign);
}

// softcap * tanh(x / softcap)
THALOOM_INLINE Float soften(Float x, Float softcap) { return softcap * tanh(x / softcap); }

template <uint32_t Activation>
THALOOM_INLINE Float activate(Float x) {
  const Float half = broadcast(0.5f), one = broadcast(1.0f);
  if constexpr (Activation == THALOOM_SILU) {
    return x / (one + exp(-x));
  } else if constexpr (Activation == THALOOM_GELU_TANH) {
    const Float inner = broadcast(0.7978845608028654f) * fma(broadcast(0.044715f) * x * x, x, x);  // sqrt(2 / pi)
    return half * x * (one + tanh(inner));
  } else if constexpr (Activation == THALOOM_RELU) {
    return x > Float{} ? x : x - x;  // x - x: zero, or NaN where x is no number
  } else {
    Float result;
    for (int i = 0; i < kLanes; ++i) result[i] = 0.5f * x[i] * (1.0f + std::erf(x[i] * 0.70710678118654752f));
    return result;
  }
}

// out[i] = activation(gate[i]) * up[i] over `count` floats, a multiple of 16.
template <uint32_t Activation>
inline void gate_row(const float *gate, const float *up, float *out, size_t count) {
  for (size_t i = 0; i < count; i += kLanes) store(out + i, activate<Activation>(load(gate + i)) * load(up + i));
}

inline void gate_row(uint32_t activation, const float *gate, const float *up, float *out, size_t count) {
  switch (activation) {
    case THALOOM_SILU: return gate_row<THALOOM_SILU>(gate, up, out, count);
    case THALOOM_GELU: return gate_row<THALOOM_GELU>(gate, up, out, count);
    case THALOOM_GELU_TANH: return gate_row<THALOOM_GELU_TANH>(gate, up, out, count);
    default: return gate_row<THALOOM_RELU>(gate, up, out, count);
  }
}

}  // namespace thaloom
