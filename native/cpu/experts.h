// A mixture of gated experts: choose per row, then each chosen expert runs once over all rows that chose it, so that
// its weights are read once per step; at last each row adds up its own experts in its own order of preference.
//
// Scratch, in floats: probabilities (rows, experts), then for every (row, choice) its gate, up and result.
#pragma once

#include <cmath>

#include "functions.h"
#include "linear.h"
#include "program.h"
#include "threads.h"

namespace thaloom {

// Who goes where, rebuilt by each mixture of a step. Sized when the program is made.
struct Choices {
  Array<int32_t> experts;   // (rows, top_k), best first
  Array<float> shares;      // (rows, top_k)
  Array<uint32_t> starts;   // (experts + 1) first of each expert's places in `order`
  Array<int32_t> rows;      // (rows * top_k) the row at each place, grouped by expert
  Array<int32_t> places;    // (rows * top_k) the same as row * top_k + choice: where its results lie

  bool allocate(size_t num_rows, size_t num_experts, size_t top_k) {
    return experts.allocate(num_rows * top_k) && shares.allocate(num_rows * top_k) &&
           starts.allocate(num_experts + 1) && rows.allocate(num_rows * top_k) && places.allocate(num_rows * top_k);
  }
};

// The top_k experts of one row by probability, ties to the lower number. `scores` become probabilities.
inline void choose_experts(float *scores, uint32_t num_experts, uint32_t top_k, bool normalise, float scale,
                           int32_t *experts, float *shares) {
  float largest = scores[0];
  for (uint32_t e = 1; e < num_experts; ++e) largest = scores[e] > largest ? scores[e] : largest;
  float total = 0.0f;
  for (uint32_t e = 0; e < num_experts; ++e) total += scores[e] = std::exp(scores[e] - largest);
  float chosen = 0.0f;
  for (uint32_t choice = 0; choice < top_k; ++choice) {
    uint32_t best = 0;
    for (uint32_t e = 1; e < num_experts; ++e) best = scores[e] > scores[best] ? e : best;
    experts[choice] = static_cast<int32_t>(best);
    shares[choice] = scores[best] / total;
    chosen += shares[choice];
    scores[best] = -1.0f;  // below every probability: not chosen again
  }
  for (uint32_t choice = 0; choice < top_k; ++choice)
    shares[choice] = (normalise ? shares[choice] / chosen : shares[choice]) * scale;
}

inline void group_by_expert(Choices &choices, size_t num_rows, size_t num_experts, size_t top_k) {
  const size_t num_places = num_rows * top_k;
  for (uint32_t &start : choices.starts) start = 0;
  for (size_t i = 0; i < num_places; ++i) ++choices.starts[static_cast<size_t>(choices.experts[i]) + 1];
  for (size_t e = 0; e < num_experts; ++e) choices.starts[e + 1] += choices.starts[e];
  for (size_t i = 0; i < num_places; ++i) {
    const size_t place = choices.starts[static_cast<size_t>(choices.experts[i])]++;
    choices.rows[place] = static_cast<int32_t>(i / top_k);
    choices.places[place] = static_cast<int32_t>(i);
  }
  for (size_t e = num_experts; e > 0; --e) choices.starts[e] = choices.starts[e - 1];  // undo the moving on
  choices.starts[0] = 0;
}

// One matrix of every expert over the rows that chose it, panels shared among the threads. `in` holds the places' rows.
inline void multiply_experts(Threads &threads, const Matrices &w, size_t num_experts, const Choices &choices,
                             const Inputs &in, const Rows &out) {
  threads.run([&](uint32_t thread) {
    const auto [begin, end] = share(w.num_panels, thread, threads.size());
    for (size_t e = 0; e < num_experts; ++e) {
      const size_t first = choices.starts[e], count = choices.starts[e + 1] - first;
      const Product product = {.up = {w, e}, .out = {out.base, out.stride, &choices.places[first]}};
      multiply(product, begin, end, strip_panels(w.dtype, count, end - begin, 1), {in.at(first), in.stride}, count);
    }
  });
}

// `ready(dtype, rows, num_rows, columns)` gives rows as matrices of that dtype read them, until it is called again.
template <class Ready>
void mix_experts(const Program &program, const thaloom_instruction &t, Threads &threads, Choices &choices,
                 const Rows &x, const Rows &out, size_t num_rows, float *scratch, const Ready &ready) {
  const Matrices router = program.matrices(t.weights[0]), gate = program.matrices(t.weights[1]);
  const Matrices up = program.matrices(t.weights[2]), down = program.matrices(t.weights[3]);
  const size_t num_experts = router.rows, top_k = t.numbers[0], num_places = num_rows * top_k;
  const size_t hidden = round_up(gate.rows, kGroup), width = round_up(down.rows, kGroup);
  const Rows scores{scratch, round_up(num_experts, kGroup)};
  const Rows gates{scratch + program.max_rows * scores.stride, hidden};
  const Rows ups{gates.base + program.max_rows * top_k * hidden, hidden};
  const Rows results{ups.base + program.max_rows * top_k * hidden, width};

  const Inputs asking = ready(router.dtype, x, num_rows, router.columns);
  threads.run([&](uint32_t thread) {
    const auto [begin, end] = share(router.num_panels, thread, threads.size());
    multiply({.up = {router}, .out = scores}, begin, end, strip_panels(router.dtype, num_rows, end - begin, 1), asking, num_rows);
  });
  for (size_t r = 0; r < num_rows; ++r)
    choose_experts(scores.at(r), router.rows, t.numbers[0], t.numbers[1] != 0, static_cast<float>(t.reals[0]),
                   &choices.experts[r * top_k], &choices.shares[r * top_k]);
  group_by_expert(choices, num_rows, num_experts, top_k);
  const Rows chosen{x.base, x.stride, choices.rows.begin()};
  const Inputs for_gate = ready(gate.dtype, chosen, num_places, gate.columns);
  multiply_experts(threads, gate, num_experts, choices, for_gate, gates);
  const Inputs for_up = form_of(up.dtype) == form_of(gate.dtype) ? for_gate : ready(up.dtype, chosen, num_places, up.columns);
  multiply_experts(threads, up, num_experts, choices, for_up, ups);
  threads.run([&](uint32_t thread) {
    const auto [begin, end] = share(num_places, thread, threads.size());
    for (size_t i = begin; i < end; ++i) gate_row(t.numbers[2], gates.at(i), ups.at(i), gates.at(i), hidden);
  });
  const Rows hidden_rows{gates.base, gates.stride, choices.places.begin()};
  multiply_experts(threads, down, num_experts, choices, ready(down.dtype, hidden_rows, num_places, down.columns), results);
  threads.run([&](uint32_t thread) {
    const auto [begin, end] = share(num_rows, thread, threads.size());
    for (size_t r = begin; r < end; ++r) {
      float *row = out.at(r);
      for (size_t k = 0; k < down.rows; ++k) row[k] = 0.0f;
      for (size_t choice = 0; choice < top_k; ++choice) {
        const float weight = choices.shares[r * top_k + choice], *result = results.at(r * top_k + choice);
        for (size_t k = 0; k < down.rows; ++k) row[k] += weight * result[k];
      }
    }
  });
}

}  // namespace thaloom
