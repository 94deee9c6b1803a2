// A step against the contract, before anything is written: sizes, then rows, outputs and blocks. Reads only, and of
// each array only what the step's own sizes allow.
#pragma once

#include <algorithm>

#include "program.h"
#include "read_program.h"

namespace thaloom {

inline const thaloom_instruction &last_instruction(const Program &program) {
  return program.operations[program.operations.size() - 1].told;
}

inline bool gives_logits(const Program &program) { return last_instruction(program).op == THALOOM_LOGITS; }

// Floats from one row of states to the next, of a program that gives logits.
inline size_t state_stride(const Program &program) {
  return round_up(program.matrices(last_instruction(program).weights[0]).columns, kGroup);
}

class StepChecker {
 public:
  // `places`: room for one number for each row. No blocks means no pool.
  StepChecker(const Program &program, const thaloom_step &step, uint32_t num_blocks, Array<uint64_t> &places,
              thaloom_message *message)
      : program(program), s(step), num_blocks(num_blocks), places(places), message(message) {}

  int32_t check() const {
    if (s.num_rows == 0 || s.num_rows > program.max_rows)
      return refuse(message, THALOOM_BAD_STEP, "%u rows; this executable takes 1 to %u", s.num_rows, program.max_rows);
    if (s.num_sequences == 0 || s.num_sequences > program.max_sequences)
      return refuse(message, THALOOM_BAD_STEP, "%u sequences; this executable takes 1 to %u", s.num_sequences,
                    program.max_sequences);
    if (s.num_outputs > program.max_rows)
      return refuse(message, THALOOM_BAD_STEP, "%u outputs; at most %u", s.num_outputs, program.max_rows);
    if (s.table_columns > (program.max_context + kBlockTokens - 1) / kBlockTokens)
      return refuse(message, THALOOM_BAD_STEP, "block tables have %u columns; a context of %u needs fewer",
                    s.table_columns, program.max_context);
    if (!s.tokens || !s.positions || !s.sequences || (s.table_columns && !s.block_tables) ||
        (s.num_outputs && (!s.outputs || (!s.result && !s.is_greedy))) || reinterpret_cast<uintptr_t>(s.result) % 64)
      return refuse(message, THALOOM_BAD_STEP, "an array of the step is missing or not aligned");
    if (s.gives_states > 1 || (s.gives_states && !gives_logits(program)))
      return refuse(message, THALOOM_BAD_STEP, "this program gives no states");
    if (s.is_greedy > 1 || (s.is_greedy && (s.gives_states || !gives_logits(program))))
      return refuse(message, THALOOM_BAD_STEP, "this step gives no tokens");
    if (!s.is_greedy &&
        s.result_values < uint64_t{s.num_outputs} * (s.gives_states ? state_stride(program) : program.result_stride))
      return refuse(message, THALOOM_BAD_STEP, "no room for %u results", s.num_outputs);
    if (int32_t status = check_rows()) return status;
    for (uint32_t i = 0; i < s.num_outputs; ++i)
      if (s.outputs[i] < 0 || static_cast<uint32_t>(s.outputs[i]) >= s.num_rows)
        return refuse(message, THALOOM_BAD_STEP, "output %d is not one of %u rows", s.outputs[i], s.num_rows);
    return program.num_stores ? check_blocks() : static_cast<int32_t>(THALOOM_OK);
  }

 private:
  const Program &program;
  const thaloom_step &s;
  const uint32_t num_blocks;
  Array<uint64_t> &places;
  thaloom_message *const message;

  const int32_t *table(size_t row) const {
    return s.block_tables + static_cast<size_t>(s.sequences[row]) * s.table_columns;
  }

  int32_t check_rows() const {
    for (uint32_t r = 0; r < s.num_rows; ++r) {
      if (s.tokens[r] < 0 || static_cast<uint32_t>(s.tokens[r]) >= program.vocab_size)
        return refuse(message, THALOOM_BAD_STEP, "token %d of row %u is outside the vocabulary of %u", s.tokens[r], r,
                      program.vocab_size);
      if (s.positions[r] < 0 || static_cast<uint32_t>(s.positions[r]) >= program.max_context)
        return refuse(message, THALOOM_BAD_STEP, "position %d of row %u is outside a context of %u", s.positions[r], r,
                      program.max_context);
      if (s.sequences[r] < 0 || static_cast<uint32_t>(s.sequences[r]) >= s.num_sequences)
        return refuse(message, THALOOM_BAD_STEP, "sequence %d of row %u is not one of %u", s.sequences[r], r,
                      s.num_sequences);
      if (r == 0) continue;
      if (s.sequences[r] < s.sequences[r - 1])
        return refuse(message, THALOOM_BAD_STEP, "row %u: rows of one sequence must stand together, in order", r);
      if (s.sequences[r] == s.sequences[r - 1] && s.positions[r] != s.positions[r - 1] + 1)
        return refuse(message, THALOOM_BAD_STEP, "row %u: positions of one sequence must be consecutive", r);
    }
    return THALOOM_OK;
  }

  int32_t check_blocks() const {
    if (num_blocks == 0) return refuse(message, THALOOM_BAD_STEP, "no pool is bound, or it has no blocks");
    for (uint32_t r = 0; r < s.num_rows; ++r) {
      const uint32_t last = static_cast<uint32_t>(s.positions[r]) / kBlockTokens;
      if (last >= s.table_columns)
        return refuse(message, THALOOM_BAD_STEP, "row %u needs %u blocks; its table has %u columns", r, last + 1,
                      s.table_columns);
      const bool is_end = r + 1 == s.num_rows || s.sequences[r + 1] != s.sequences[r];
      for (uint32_t i = is_end ? 0 : last; i <= last; ++i) {
        const int32_t block = table(r)[i];
        if (block < 0 || static_cast<uint32_t>(block) >= num_blocks)
          return refuse(message, THALOOM_BAD_STEP, "block %d is outside the pool of %u", block, num_blocks);
      }
      places[r] = static_cast<uint64_t>(table(r)[last]) * kBlockTokens + static_cast<uint32_t>(s.positions[r]) % kBlockTokens;
    }
    std::sort(places.begin(), places.begin() + s.num_rows);
    for (uint32_t r = 1; r < s.num_rows; ++r)
      if (places[r] == places[r - 1])
        return refuse(message, THALOOM_BAD_STEP, "two rows would write to the same place of block %llu",
                      static_cast<unsigned long long>(places[r] / kBlockTokens));
    return THALOOM_OK;
  }
};

// Draws against the contract, before anything is written. Logits are the caller's: any bits will do. `num_kept`: rows of
// which the last step found the likeliest token and kept no logits.
inline int32_t check_draws(const Program &program, const thaloom_draws &d, uint32_t num_kept, thaloom_message *message) {
  if (!gives_logits(program)) return refuse(message, THALOOM_BAD_STEP, "this program gives no logits to draw from");
  if (d.num_draws > program.max_rows)
    return refuse(message, THALOOM_BAD_STEP, "%u draws; at most %u", d.num_draws, program.max_rows);
  if (d.num_draws && ((!d.logits && !num_kept) || !d.wishes || !d.drawn || (d.top_columns && !d.top)))
    return refuse(message, THALOOM_BAD_STEP, "an array of the draws is missing");
  if (num_kept ? num_kept < d.num_rows : d.logits_values < uint64_t{d.num_rows} * program.result_stride)
    return refuse(message, THALOOM_BAD_STEP, "there are no logits for %u rows", d.num_rows);
  for (uint32_t i = 0; i < d.num_draws; ++i) {
    const thaloom_draw &w = d.wishes[i];
    if (w.row >= d.num_rows)
      return refuse(message, THALOOM_BAD_STEP, "draw %u is from row %u of %u", i, w.row, d.num_rows);
    const bool is_possible = w.temperature >= 0 && w.temperature <= 1.7976931348623157e308 && w.top_p > 0 &&
                             w.top_p <= 1 && w.min_p >= 0 && w.min_p <= 1 && w.uniform_steps >> 53 == 0 &&
                             w.num_further <= THALOOM_MAX_FURTHER &&
                             std::all_of(w.further_steps, w.further_steps + w.num_further,
                                         [](uint64_t steps) { return steps >> 53 == 0; });
    if (num_kept && (w.temperature != 0 || w.num_top >= 0 || w.num_edits || w.allowed_words))
      return refuse(message, THALOOM_BAD_STEP, "draw %u is not greedy alone, and no logits were kept", i);
    if (!is_possible) return refuse(message, THALOOM_BAD_STEP, "draw %u is of impossible numbers", i);
    if (w.allowed_words != (w.allowed ? (program.result_width + 31) / 32 : 0))
      return refuse(message, THALOOM_BAD_STEP, "draw %u allows tokens by %u words", i, w.allowed_words);
    if (w.num_edits && !w.edits) return refuse(message, THALOOM_BAD_STEP, "the edits of draw %u are missing", i);
    for (uint32_t k = 0; k < w.num_edits; ++k) {
      const thaloom_edit &e = w.edits[k];
      const bool is_token = e.token >= 0 && static_cast<uint32_t>(e.token) < program.result_width;
      if (!is_token || !(e.scale > 0) || !std::isfinite(e.scale) || !std::isfinite(e.add))
        return refuse(message, THALOOM_BAD_STEP, "edit %u of draw %u is impossible", k, i);
    }
    if (w.num_top > 0 && static_cast<uint32_t>(w.num_top) > d.top_columns)
      return refuse(message, THALOOM_BAD_STEP, "draw %u reports %d tokens; there is room for %u", i, w.num_top,
                    d.top_columns);
  }
  return THALOOM_OK;
}

}  // namespace thaloom
