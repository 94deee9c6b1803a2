// Half-precision floats: scales of weights are kept in them, and keys and values can be. Nothing is computed in them.
#pragma once

#include "simd.h"

namespace thaloom {

inline float f32_from_f16(uint16_t half) {  // finite ones only
  const float value = as_float(static_cast<uint32_t>(half & 0x7FFF) << 13);
  return (half & 0x8000 ? -value : value) * 0x1p112f;
}

// Sixteen scales of a group, in f32.
THALOOM_INLINE Group load_scales(const std::byte *p) {
  Group scales;
  repeat<kVectors>([&](auto i) __attribute__((always_inline)) {
    const auto *half = reinterpret_cast<const uint16_t *>(p) + i * kLanes;
#if defined(__AVX512F__)
    scales.part[i] = reinterpret_cast<Float>(_mm512_maskz_cvtph_ps(  // not the plain one: GCC 12 warns of its own header
        0xFFFF, _mm256_loadu_si256(reinterpret_cast<const __m256i *>(half))));
#elif defined(__F16C__)
    scales.part[i] = reinterpret_cast<Float>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(half))));
#elif defined(__aarch64__)
    scales.part[i] = reinterpret_cast<Float>(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(half))));
#else
    const Bits wide = __builtin_convertvector(*reinterpret_cast<const HalfBitsInMemory *>(half), Bits);
    scales.part[i] = as_float((as_bits(as_float((wide & 0x7FFFu) << 13) * 0x1p112f)) | (wide & 0x8000u) << 16);
#endif
  });
  return scales;
}

inline float f32_from_any_f16(uint16_t half) {
  if ((half & 0x7C00) != 0x7C00) return f32_from_f16(half);
  return as_float(static_cast<uint32_t>(half & 0x8000) << 16 | 0x7F800000u | static_cast<uint32_t>(half & 0x3FF) << 13);
}

// To nearest, ties to even; infinity where it is too large.
inline uint16_t f16_from_f32(float value) {
  uint32_t bits = as_bits(value);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  bits &= 0x7FFFFFFF;
  if (bits >= 0x477FF000) return sign | 0x7C00;  // 65520 and more, infinity and NaN
  if (bits < 0x38800000) {                      // below 2^-14: a multiple of 2^-24, which adding 0.5 rounds to
    return static_cast<uint16_t>(sign | (as_bits(as_float(bits) + 0.5f) - 0x3F000000));
  }
  return static_cast<uint16_t>(sign | ((bits - 0x38000000 + 0xFFF + (bits >> 13 & 1)) >> 13));
}

// The f16 in the upper half of each lane, as float32; the lower halves are zeros. Infinities and NaN stay what they are.
THALOOM_INLINE Float widen_f16(Bits upper) {
#if defined(__AVX512F__)
  const __m256i half = _mm512_maskz_cvtepi32_epi16(0xFFFF, reinterpret_cast<__m512i>(upper >> 16));
  return reinterpret_cast<Float>(_mm512_maskz_cvtph_ps(0xFFFF, half));  // not the plain ones: see load_scales
#elif defined(__aarch64__)
  const uint16x4_t half = vshrn_n_u32(reinterpret_cast<uint32x4_t>(upper), 16);
  return reinterpret_cast<Float>(vcvt_f32_f16(vreinterpret_f16_u16(half)));
#else
  const Bits magnitude = (upper & 0x7FFF0000u) >> 3;
  const Bits beyond = reinterpret_cast<Bits>(magnitude >= 0x0F800000u) & 0x7F800000u;  // the exponent of no number
  return as_float(as_bits(as_float(magnitude) * 0x1p112f) | beyond | (upper & 0x80000000u));
#endif
}

}  // namespace thaloom
