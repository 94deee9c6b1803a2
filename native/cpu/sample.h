// From a row of logits to one token. What is right: src/thaloom/hal/draws.py, to the last bit.
//
// Probabilities are whole numbers, in units of 2^-44 of the likeliest token's, so sums do not depend on their order and
// nothing is ever sorted but the few that are asked for by rank. The first pass over the vocabulary leaves out, 32 tokens
// at a time, whoever is not allowed or can weigh nothing (nearly all, in a trained model); all others go over the rest.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>

#include "array.h"
#include "simd.h"
#include "thaloom_cpu.h"

namespace thaloom {

inline constexpr uint64_t kUnit = uint64_t{1} << 44;
inline constexpr double kFloor = -32.0;
inline constexpr size_t kBuckets = 1024;  // of top-p: 32 for each unit of the scaled logit
inline constexpr size_t kRun = 256;       // tokens whose weights are summed at once in search of the drawn one
inline constexpr size_t kWord = 32;       // tokens of one word of a mask, which are kept or left out together

inline constexpr int kDoubles = kLanes / 2;
using Double = double __attribute__((vector_size(kDoubles * 8)));
using Whole = uint64_t __attribute__((vector_size(kDoubles * 8)));
using HalfFloat = float __attribute__((vector_size(kDoubles * 4), aligned(4), may_alias));
using WholeInMemory = uint64_t __attribute__((vector_size(kDoubles * 8), aligned(8), may_alias));

THALOOM_INLINE Double broadcast_double(double value) { return value - Double{}; }

// e^x in units, to the nearest, for x in [kFloor, 0]; 0 below. Only multiplications and additions, in this order.
THALOOM_INLINE Whole weigh(Double x) {
  constexpr double kLog2E = 1.4426950408889634;
  constexpr double kLn2High = 6.93147180369123816490e-01, kLn2Low = 1.90821492927058770002e-10;
  constexpr double kRound = 0x1.8p52;  // added and taken away again: what is left is whole
  constexpr double kTaylor[] = {1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720,
                                1.0 / 120,      1.0 / 24,      1.0 / 6,      1.0 / 2,     1.0,        1.0};
  const Double shifted = x * kLog2E + kRound, n = shifted - kRound;
  const Double r = (x - n * kLn2High) - n * kLn2Low;
  Double sum = broadcast_double(kTaylor[0]);
  repeat<11>([&](auto i) __attribute__((always_inline)) { sum = sum * r + kTaylor[i + 1]; });
  const Whole scale = (reinterpret_cast<Whole>(shifted) + (1023 + 44)) << 52;  // 2^(n + 44), by its exponent alone
  const Double rounded = sum * reinterpret_cast<Double>(scale) + 0x1p52;
  return (reinterpret_cast<Whole>(rounded) & (kUnit * 2 - 1)) & reinterpret_cast<Whole>(x >= kFloor);
}

// A place in the order of likelihood, as one number: the higher logit first, the lower id on a tie. Never 0.
THALOOM_INLINE uint64_t rank_of(float logit, uint32_t id) {
  uint32_t bits;
  logit += 0.0f;  // minus zero is zero
  std::memcpy(&bits, &logit, sizeof bits);
  bits ^= bits >> 31 ? 0xFFFFFFFFu : 0x80000000u;
  return uint64_t{bits} << 32 | static_cast<uint32_t>(~id);
}
THALOOM_INLINE uint32_t id_of(uint64_t rank) { return ~static_cast<uint32_t>(rank); }
THALOOM_INLINE float logit_of(uint64_t rank) {
  auto bits = static_cast<uint32_t>(rank >> 32);
  bits ^= bits >> 31 ? 0x80000000u : 0xFFFFFFFFu;
  float logit;
  std::memcpy(&logit, &bits, sizeof logit);
  return logit;
}

// What a row of logits is found to be, vector by vector.
struct Seen {
  Float highest = broadcast(-__builtin_inff());
  Bits bad = {};

  THALOOM_INLINE void add(Float x) {
    const Bits exponent = Bits{} + 0x7F800000u;
    highest = maximum(x, highest);
    bad -= reinterpret_cast<Bits>((as_bits(x) & exponent) == exponent);  // true is -1
  }

  void tell(thaloom_drawn &drawn) const {
    drawn.highest = highest_of(highest);
    for (int i = 0; i < kLanes; ++i) drawn.num_not_finite += bad[i];
  }

  static float highest_of(Float x) {
    float result = x[0];
    for (int i = 1; i < kLanes; ++i) result = std::max(result, x[i]);
    return result;
  }
};

// The logits of one word of a mask.
struct Word {
  static constexpr int kParts = kWord / kLanes;
  Float part[kParts];

  explicit THALOOM_INLINE Word(const float *x) {
    repeat<kParts>([&](auto i) __attribute__((always_inline)) { part[i] = load(x + i * kLanes); });
  }
  THALOOM_INLINE void store(float *x) const {
    repeat<kParts>([&](auto i) __attribute__((always_inline)) { thaloom::store(x + i * kLanes, part[i]); });
  }
  // -infinity for those without a bit.
  THALOOM_INLINE void mask(uint32_t allowed) {
    Bits places;
    for (uint32_t k = 0; k < static_cast<uint32_t>(kLanes); ++k) places[k] = uint32_t{1} << k;
    repeat<kParts>([&](auto i) __attribute__((always_inline)) {
      const Bits bits = Bits{} + (allowed >> (i * kLanes));
      part[i] = (bits & places) != 0 ? part[i] : broadcast(-__builtin_inff());
    });
  }
  THALOOM_INLINE Float highest() const {
    Float result = part[0];
    repeat<kParts - 1>([&](auto i) __attribute__((always_inline)) { result = maximum(part[i + 1], result); });
    return result;
  }
};

// One thread's means to draw from rows of up to `width` logits, in a workspace of num_numbers(width).
class Sampler {
 public:
  static constexpr size_t num_numbers(size_t width) {
    const size_t most = round_up(width, kRun);
    return 2 * most + most / kRun + most / 2 + most / kWord / 2;
  }

  void bind(uint64_t *workspace, size_t width) {
    const size_t most = round_up(width, kRun);
    weights_ = workspace;
    ranks_ = weights_ + most;
    sums_ = ranks_ + most;
    kept_ = reinterpret_cast<float *>(sums_ + most / kRun);
    words_ = reinterpret_cast<uint32_t *>(kept_ + most);
  }

  // `top`: room for told.num_top ids.
  void draw(const float *logits, size_t width, const thaloom_draw &told, thaloom_drawn &drawn, int32_t *top) {
    drawn = {.token = -1, .num_not_finite = 0, .highest = 0.0f, .num_top = 0, .total = 0, .further = {}};
    std::fill(drawn.further, drawn.further + THALOOM_MAX_FURTHER, -1);
    Seen seen;
    if (told.num_edits) {  // whether all are finite is asked of the model's own
      each_word(logits, width, [&](size_t, const Word &x, uint32_t) { for (const Float part : x.part) seen.add(part); });
      edit(logits, width, told);
      Seen ignored;
      keep(kept_, width, told, ignored);
    } else {
      keep(logits, width, told, seen);
    }
    seen.tell(drawn);
    if (drawn.num_not_finite || width_ == 0) return;
    choose(told, drawn);
    if (told.num_top < 0) return;
    logits_ = logits;  // what is reported is the model's own
    width_ = width;
    highest_ = drawn.highest;
    drawn.total = weigh_all<false>(1.0, 0);
    drawn.num_top = static_cast<uint32_t>(std::min<size_t>(static_cast<size_t>(told.num_top), width));
    const uint64_t *ranks = likeliest(drawn.num_top);
    for (uint32_t i = 0; i < drawn.num_top; ++i) top[i] = static_cast<int32_t>(id_of(ranks[i]));
  }

 private:
  uint64_t *weights_;  // of every token, 0 if it was filtered out; only where somebody asks for filters
  uint64_t *ranks_;    // of whatever must be put in order
  uint64_t *sums_;     // of each run's weights
  float *kept_;        // logits of the words that were kept, one after the other
  uint32_t *words_;    // which they are
  uint64_t masses_[kBuckets];
  // The row to draw from: what was kept, or for reports all. Places in it are in the order of ids, so ties among places are
  // decided as among ids; "id" below means a place.
  const float *logits_;
  size_t width_;
  float highest_;
  float lowest_;  // whoever lies below it has no weight

  // All bits for those that rank no lower than `last` (0: for everybody).
  struct Passing {
    Double logit;
    Whole id;
    Passing(const Sampler &sampler, uint64_t last)
        : logit(broadcast_double(last ? sampler.logits_[id_of(last)] : -__builtin_inff())),
          id(Whole{} + (last ? id_of(last) : ~uint32_t{0})) {}
    THALOOM_INLINE Whole operator()(size_t first, Double x) const {
      Whole steps;
      for (size_t i = 0; i < static_cast<size_t>(kDoubles); ++i) steps[i] = i;
      const Whole ids = steps + first;
      return reinterpret_cast<Whole>(x > logit) |
             (reinterpret_cast<Whole>(x == logit) & reinterpret_cast<Whole>(ids <= id));
    }
  };

  // Calls f(number, logits, bits of those that exist) for each word of a row. Those that do not exist are finite.
  template <class F>
  static THALOOM_INLINE void each_word(const float *row, size_t width, const F &f) {
    const size_t whole = width / kWord;
    for (size_t i = 0; i < whole; ++i) f(i, Word(row + i * kWord), ~uint32_t{0});
    const size_t rest = width % kWord;
    if (rest == 0) return;
    alignas(64) float padded[kWord];
    std::fill(padded, padded + kWord, -__FLT_MAX__);
    std::memcpy(padded, row + whole * kWord, rest * sizeof(float));
    f(whole, Word(padded), ~uint32_t{0} >> (kWord - rest));
  }

  // A copy of the row, with edits, in `kept_`.
  void edit(const float *row, size_t width, const thaloom_draw &told) {
    std::memcpy(kept_, row, width * sizeof(float));
    for (uint32_t i = 0; i < told.num_edits; ++i) {
      const thaloom_edit &e = told.edits[i];
      float &x = kept_[e.token];
      x = (x > 0 ? x / e.scale : x * e.scale) + e.add;
      x = std::min(std::max(x, -__FLT_MAX__), __FLT_MAX__);
    }
  }

  // From here on the row to draw from is the words in which somebody is allowed and may weigh something; who is not allowed
  // is -infinity in it. `row` may be `kept_` itself: nothing is written before it was read.
  void keep(const float *row, size_t width, const thaloom_draw &told, Seen &seen) {
    size_t count = 0;
    highest_ = lowest_ = -__builtin_inff();
    each_word(row, width, [&](size_t number, Word x, uint32_t present) __attribute__((always_inline)) {
      for (const Float part : x.part) seen.add(part);
      const uint32_t allowed = present & (told.allowed ? told.allowed[number] : ~uint32_t{0});
      if (allowed == 0) return;
      if (allowed != ~uint32_t{0}) x.mask(allowed);
      const Float highest = x.highest();
      if (!any(highest >= broadcast(lowest_))) return;
      x.store(kept_ + count * kWord);
      words_[count++] = static_cast<uint32_t>(number);
      if (!any(highest > broadcast(highest_))) return;
      highest_ = Seen::highest_of(highest);
      lowest_ = lowest(told.temperature);
    });
    logits_ = kept_;
    width_ = count * kWord;
  }

  // Whoever lies below weighs nothing: the margin is far more than what rounding to float can move. Never lower for a
  // higher `highest_`.
  float lowest(double temperature) const {
    const double least = highest_ - 33.0 * temperature - std::fabs(highest_) * 1e-6;
    return least < -3.4e38 ? -__builtin_inff() : static_cast<float>(least);
  }

  size_t first_highest() const {
    size_t i = 0;
    for (const Float highest = broadcast(highest_); i + kLanes <= width_; i += kLanes)
      if (any(load(logits_ + i) == highest)) break;
    while (logits_[i] != highest_) ++i;
    return i;
  }

  // The token, and the further ones.
  void choose(const thaloom_draw &told, thaloom_drawn &drawn) {
    const auto token_at = [&](size_t place) {
      return static_cast<int32_t>(words_[place / kWord] * kWord + place % kWord);
    };
    if (told.temperature == 0) {
      drawn.token = token_at(first_highest());
      return;
    }
    const bool is_cut = told.top_k > 0 && told.top_k < width_;
    const bool is_filtered = is_cut || told.top_p < 1.0 || told.min_p > 0.0;
    uint64_t total = is_filtered ? weigh_all<true>(told.temperature, is_cut ? last_likeliest(told.top_k) : 0)
                                 : weigh_all<false>(told.temperature, 0);
    if (told.top_p < 1.0) total = filter(last_of_share(told.top_p, total, told.temperature), 1);
    if (told.min_p > 0.0) total = filter(0, static_cast<uint64_t>(std::ceil(told.min_p * kUnit)));
    size_t taken[1 + THALOOM_MAX_FURTHER];
    size_t num_taken = 0;
    // The first place at which the running sum passes so much of the total; from then on it weighs nothing.
    const auto take = [&](uint64_t uniform_steps) {
      auto target = static_cast<uint64_t>(static_cast<unsigned __int128>(total) * uniform_steps >> 53);
      size_t run = 0;  // the first at whose end the running sum is above the target
      for (; sums_[run] <= target; ++run) target -= sums_[run];
      if (!is_filtered) {
        weigh_run<true>(run, inverse(told.temperature), Passing(*this, 0));
        for (size_t k = 0; k < num_taken; ++k)
          if (taken[k] / kRun == run) weights_[taken[k]] = 0;
      }
      size_t i = run * kRun;
      for (; weights_[i] <= target; ++i) target -= weights_[i];
      total -= weights_[i];
      sums_[run] -= weights_[i];
      weights_[i] = 0;
      taken[num_taken++] = i;
      return token_at(i);
    };
    drawn.token = take(told.uniform_steps);
    for (uint32_t i = 0; i < told.num_further && total > 0; ++i) drawn.further[i] = take(told.further_steps[i]);
  }

  // Calls f(id of the first, logits, weights) for kDoubles tokens in [begin, end) at a time, and for none of a group of
  // kLanes without a logit as high as `limit`, whose weights become 0 if it `kClears`. What lies beyond the vocabulary has
  // the logit -infinity.
  template <bool kClears = false, class F>
  THALOOM_INLINE void each(size_t begin, size_t end, float limit, const F &f) {
    for (size_t i = begin; i < end; i += kLanes) {
      alignas(64) float padded[kLanes];
      const float *x = logits_ + i;
      if (i + kLanes > width_) {
        for (size_t k = 0; k < static_cast<size_t>(kLanes); ++k) padded[k] = i + k < width_ ? x[k] : -__builtin_inff();
        x = padded;
      }
      if (!any(load(x) >= broadcast(limit))) {
        if constexpr (kClears) std::memset(weights_ + i, 0, kLanes * sizeof(uint64_t));
        continue;
      }
      for (size_t k = 0; k < static_cast<size_t>(kLanes); k += kDoubles) {
        const HalfFloat part = *reinterpret_cast<const HalfFloat *>(x + k);
        f(i + k, __builtin_convertvector(part, Double), *reinterpret_cast<WholeInMemory *>(weights_ + i + k));
      }
    }
  }

  // The sum of what f(id of the first, logits, weights) gives for a run of tokens.
  template <bool kClears, class F>
  THALOOM_INLINE uint64_t sum_run(size_t run, const F &f) {
    Whole sum = {};
    each<kClears>(run * kRun, std::min((run + 1) * kRun, width_), lowest_,
                  [&](size_t id, Double x, WholeInMemory &weights) __attribute__((always_inline)) {
                    sum += f(id, x, weights);
                  });
    uint64_t result = 0;
    for (int i = 0; i < kDoubles; ++i) result += sum[i];
    return result;
  }

  // The sum of the weights of all in a run that pass; if it `kStores`, they are left in `weights_`.
  template <bool kStores>
  uint64_t weigh_run(size_t run, double scale, const Passing &passing) {
    const double highest = highest_;
    return sum_run<kStores>(run, [&](size_t id, Double x, WholeInMemory &weights) __attribute__((always_inline)) {
      Whole found = weigh((x - highest) * scale);
      if constexpr (kStores) weights = found = found & passing(id, x);
      return found;
    });
  }

  // Weights of all that rank no lower than `last`, which is 0 if they are not stored; their sum.
  template <bool kStores>
  uint64_t weigh_all(double temperature, uint64_t last) {
    lowest_ = lowest(temperature);
    if (last) lowest_ = std::max(lowest_, logits_[id_of(last)]);
    const double scale = inverse(temperature);
    const Passing passing(*this, last);
    uint64_t sum = 0;
    for (size_t run = 0; run * kRun < width_; ++run) sum += sums_[run] = weigh_run<kStores>(run, scale, passing);
    return sum;
  }

  // Takes the weight of whoever ranks lower than `last` or weighs less than `least`; the sum of what is left.
  uint64_t filter(uint64_t last, uint64_t least) {
    const Passing passing(*this, last);
    uint64_t sum = 0;
    for (size_t run = 0; run * kRun < width_; ++run)
      sum += sums_[run] =
          sum_run<false>(run, [&](size_t id, Double x, WholeInMemory &weights) __attribute__((always_inline)) {
            const Whole before = weights;
            const Whole found = before & passing(id, x) & reinterpret_cast<Whole>(before >= least);
            weights = found;
            return found;
          });
    return sum;
  }

  // The rank of the last of the fewest, likeliest first, whose weights reach `share` of `total`. Buckets by logit tell
  // near where it lies, so that only the tokens of one bucket are put in order.
  uint64_t last_of_share(double share, uint64_t total, double temperature) {
    const uint64_t needed = std::min(total, static_cast<uint64_t>(std::ceil(share * static_cast<double>(total))));
    const double scale = inverse(temperature) * (kBuckets / -kFloor);
    std::fill(masses_, masses_ + kBuckets, uint64_t{0});
    each(0, width_, lowest_, [&](size_t, Double x, WholeInMemory &weights) __attribute__((always_inline)) {
      const Double depth = (double{highest_} - x) * scale;
      for (int i = 0; i < kDoubles; ++i) masses_[bucket_of(depth[i])] += weights[i];
    });
    size_t bucket = 0;
    uint64_t sum = 0;
    for (; sum + masses_[bucket] < needed; ++bucket) sum += masses_[bucket];
    size_t count = 0;
    each(0, width_, lowest_, [&](size_t id, Double x, WholeInMemory &weights) __attribute__((always_inline)) {
      const Double depth = (double{highest_} - x) * scale;
      for (size_t i = 0; i < static_cast<size_t>(kDoubles); ++i)
        if (bucket_of(depth[i]) == bucket && weights[i])
          ranks_[count++] = rank_of(logits_[id + i], static_cast<uint32_t>(id + i));
    });
    std::sort(ranks_, ranks_ + count, std::greater<>());
    size_t i = 0;
    while ((sum += weights_[id_of(ranks_[i])]) < needed) ++i;
    return ranks_[i];
  }

  static double inverse(double temperature) { return std::min(1.0 / temperature, 0x1.fffffffffffffp1023); }

  // Never smaller for a lower logit. What is too deep, or at the tiniest temperatures not a number, goes to the last.
  static THALOOM_INLINE size_t bucket_of(double depth) {
    return depth < kBuckets - 1 ? static_cast<size_t>(depth) : kBuckets - 1;
  }

  uint64_t last_likeliest(size_t count) { return likeliest(count)[count - 1]; }

  // The ranks of the `count` likeliest, in order, in our workspace. Keeps some more than that at a time, and passes over
  // all that lie below the last of the best so far.
  const uint64_t *likeliest(size_t count) {
    const size_t room = std::min(width_, std::max<size_t>(4 * count, 4096));
    size_t held = 0, i = 0;
    Float limit = broadcast(-__builtin_inff());
    float last = -__builtin_inff();
    const auto take = [&](size_t id) {
      if (logits_[id] < last) return;
      ranks_[held++] = rank_of(logits_[id], static_cast<uint32_t>(id));
      if (held < room || count == width_) return;
      std::nth_element(ranks_, ranks_ + count, ranks_ + held, std::greater<>());
      last = logits_[id_of(*std::min_element(ranks_, ranks_ + count))];
      limit = broadcast(last);
      held = count;
    };
    for (; count && i + kLanes <= width_; i += kLanes)
      if (any(load(logits_ + i) >= limit))
        for (size_t k = 0; k < static_cast<size_t>(kLanes); ++k) take(i + k);
    for (; count && i < width_; ++i) take(i);
    std::partial_sort(ranks_, ranks_ + std::min(count, held), ranks_ + held, std::greater<>());
    return ranks_;
  }
};

// A sampler for each thread.
class Samplers {
 public:
  // False if there is no memory for them. Of what is asked for, only what is used is ever committed by the system.
  bool allocate(size_t num_threads, size_t width) {
    const size_t each = Sampler::num_numbers(width);
    if (!samplers_.allocate(num_threads) || !workspace_.allocate(num_threads * each)) return false;
    for (size_t i = 0; i < num_threads; ++i) samplers_[i].bind(&workspace_[i * each], width);
    return true;
  }

  Sampler &operator[](size_t thread) { return samplers_[thread]; }

 private:
  Array<Sampler> samplers_;
  Array<uint64_t> workspace_;
};

}  // namespace thaloom
