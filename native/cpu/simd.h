// Vectors of float32, written once for every instruction set by GCC's vector extension.
//
// Code above this file thinks in groups of 16 floats (one panel of a matrix, one block of tokens), held as
// 16 / kLanes vectors. The order of every sum is fixed in those 16 lanes, whatever the width of a register.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace thaloom {

#if defined(__AVX512F__)
inline constexpr int kLanes = 16;
inline constexpr int kAccumulators = 24;  // registers a tile may fill with sums; the rest hold its operands
#elif defined(__AVX2__)
inline constexpr int kLanes = 8;
inline constexpr int kAccumulators = 12;
#elif defined(__aarch64__)
inline constexpr int kLanes = 4;
inline constexpr int kAccumulators = 24;
#else
inline constexpr int kLanes = 4;
inline constexpr int kAccumulators = 12;
#endif

#if defined(__AVX512BF16__) || defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
inline constexpr bool kHasBF16 = true;  // a dot product of pairs of bfloat16, summed in float32
#define THALOOM_HAS_BF16 1
#else
inline constexpr bool kHasBF16 = false;
#endif

inline constexpr int kGroup = 16;                // floats handled together: a panel's width, a block's tokens
inline constexpr int kVectors = kGroup / kLanes;  // vectors in a group

using Float = float __attribute__((vector_size(kLanes * 4)));
using Bits = uint32_t __attribute__((vector_size(kLanes * 4)));
using FloatInMemory = float __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
using BitsInMemory = uint32_t __attribute__((vector_size(kLanes * 4), aligned(2), may_alias));
using HalfBits = uint16_t __attribute__((vector_size(kLanes * 2)));
using HalfBitsInMemory = uint16_t __attribute__((vector_size(kLanes * 2), aligned(2), may_alias));

#define THALOOM_INLINE inline __attribute__((always_inline))

// Calls f(0), f(1) ... f(N - 1) with constants, so that arrays of vectors indexed by them become registers.
template <int N, class F>
THALOOM_INLINE void repeat(F &&f) {
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    (f(std::integral_constant<int, I>{}), ...);
  }(std::make_integer_sequence<int, N>{});
}

THALOOM_INLINE Float broadcast(float value) {
#if defined(__AVX512F__)
  return reinterpret_cast<Float>(_mm512_set1_ps(value));
#elif defined(__AVX2__)
  return reinterpret_cast<Float>(_mm256_set1_ps(value));
#else
  return Float{value, value, value, value};
#endif
}
THALOOM_INLINE Float load(const float *p) { return *reinterpret_cast<const FloatInMemory *>(p); }
THALOOM_INLINE void store(float *p, Float value) { *reinterpret_cast<FloatInMemory *>(p) = value; }
THALOOM_INLINE Bits load_bits(const void *p) { return *static_cast<const BitsInMemory *>(p); }
THALOOM_INLINE Bits broadcast_bits(const void *p) {
  uint32_t value;
  std::memcpy(&value, p, sizeof value);
  return Bits{} + value;
}
THALOOM_INLINE Bits as_bits(Float value) { return reinterpret_cast<Bits>(value); }
THALOOM_INLINE Float as_float(Bits value) { return reinterpret_cast<Float>(value); }
THALOOM_INLINE uint32_t as_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
THALOOM_INLINE float as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// a * b + c. One rounding where the hardware has it, two where it has not; the same everywhere within one variant.
THALOOM_INLINE Float fma(Float a, Float b, Float c) {
#if defined(__AVX512F__)
  return reinterpret_cast<Float>(_mm512_fmadd_ps(a, b, c));
#elif defined(__FMA__)
  return reinterpret_cast<Float>(_mm256_fmadd_ps(a, b, c));
#elif defined(__aarch64__)
  return reinterpret_cast<Float>(vfmaq_f32(reinterpret_cast<float32x4_t>(c), reinterpret_cast<float32x4_t>(a),
                                           reinterpret_cast<float32x4_t>(b)));
#else
  return a * b + c;
#endif
}

THALOOM_INLINE Float maximum(Float a, Float b) { return a > b ? a : b; }

// Whether a comparison holds in any lane. `mask` is what one of vectors of floats gives: all bits or none.
template <class Mask>
THALOOM_INLINE bool any(Mask mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask(reinterpret_cast<__m512i>(mask), reinterpret_cast<__m512i>(mask)) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_epi8(reinterpret_cast<__m256i>(mask)) != 0;
#elif defined(__x86_64__)
  return _mm_movemask_epi8(reinterpret_cast<__m128i>(mask)) != 0;
#elif defined(__aarch64__)
  return vmaxvq_u32(reinterpret_cast<uint32x4_t>(mask)) != 0;
#else
  return (mask[0] | mask[1] | mask[2] | mask[3]) != 0;
#endif
}

// kLanes bfloat16 side by side, as float32.
THALOOM_INLINE Float load_bf16(const uint16_t *p) {
  const HalfBits half = *reinterpret_cast<const HalfBitsInMemory *>(p);
  return as_float(__builtin_convertvector(half, Bits) << 16);
}

THALOOM_INLINE float f32_from_bf16(uint16_t bits) { return as_float(static_cast<uint32_t>(bits) << 16); }

// Round to nearest, ties to even; NaN stays NaN. The same rule as hal.tensors.bf16_from_f32.
THALOOM_INLINE uint16_t bf16_from_f32(float value) {
  const uint32_t bits = as_bits(value);
  if (value != value) return 0x7FC0;
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

// Sixteen floats: what every reduction is made of.
struct Group {
  Float part[kVectors];
};

THALOOM_INLINE Group load_group(const float *p) {
  Group group;
  repeat<kVectors>([&](auto i) __attribute__((always_inline)) { group.part[i] = load(p + i * kLanes); });
  return group;
}

THALOOM_INLINE void store_group(float *p, const Group &group) {
  repeat<kVectors>([&](auto i) __attribute__((always_inline)) { store(p + i * kLanes, group.part[i]); });
}

// The first `count` of 16 floats, zero beyond them, without reading beyond them.
THALOOM_INLINE Group load_part(const float *p, size_t count) {
  if (count >= kGroup) return load_group(p);
  alignas(64) float padded[kGroup] = {};
  std::memcpy(padded, p, count * sizeof(float));
  return load_group(padded);
}

THALOOM_INLINE void store_part(float *p, const Group &group, size_t count) {
  if (count >= kGroup) return store_group(p, group);
  alignas(64) float padded[kGroup];
  store_group(padded, group);
  std::memcpy(p, padded, count * sizeof(float));
}

// Sixteen floats rounded to bfloat16. The x86 instruction also makes zeros of denormals, as all products of pairs do.
THALOOM_INLINE void store_bf16(uint16_t *p, const Group &group) {
#if defined(__AVX512BF16__)
  const auto half = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(reinterpret_cast<__m512>(group.part[0])));
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), half);
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
  repeat<kVectors / 2>([&](auto i) __attribute__((always_inline)) {
    const auto low = vcvtq_low_bf16_f32(reinterpret_cast<float32x4_t>(group.part[2 * i]));
    const auto both = vcvtq_high_bf16_f32(low, reinterpret_cast<float32x4_t>(group.part[2 * i + 1]));
    std::memcpy(p + i * 8, &both, sizeof both);
  });
#else
  float values[kGroup];
  store_group(values, group);
  for (int i = 0; i < kGroup; ++i) p[i] = bf16_from_f32(values[i]);
#endif
}

#if defined(THALOOM_HAS_BF16)
// sum + a.even * b.even + a.odd * b.odd for pairs of bfloat16; denormals count as zeros. How its sums are rounded is the
// processor's own, always the same: on ARM to odd, not to nearest.
THALOOM_INLINE Float dot_pairs(Float sum, Bits a, Bits b) {
#if defined(__AVX512BF16__)
  return reinterpret_cast<Float>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(a),
                                                  reinterpret_cast<__m512bh>(b)));
#else
  return reinterpret_cast<Float>(vbfdotq_f32(reinterpret_cast<float32x4_t>(sum), reinterpret_cast<bfloat16x8_t>(a),
                                             reinterpret_cast<bfloat16x8_t>(b)));
#endif
}
#endif

// Lane i with lane i + 8, then 4, 2, 1: one fixed tree.
THALOOM_INLINE float sum(const Group &group) {
  alignas(64) float lanes[kGroup];
  store_group(lanes, group);
  for (int width = kGroup / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] = lanes[i] + lanes[i + width];
  return lanes[0];
}

THALOOM_INLINE float maximum(const Group &group) {
  alignas(64) float lanes[kGroup];
  store_group(lanes, group);
  float largest = lanes[0];
  for (int i = 1; i < kGroup; ++i) largest = lanes[i] > largest ? lanes[i] : largest;
  return largest;
}

THALOOM_INLINE constexpr size_t round_up(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace thaloom
