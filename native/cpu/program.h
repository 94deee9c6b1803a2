// A program as the step runs it: checked, its slots placed in scratch. Made by read_program.h, read-only afterwards.
//
// Every index in it is in range, every width fits its neighbours, and every size is small enough that no product of
// sizes used later can overflow 64 bits. Nothing that runs a step checks any of this again.
#pragma once

#include <iterator>

#include "array.h"
#include "inputs.h"
#include "simd.h"
#include "thaloom_cpu.h"

namespace thaloom {

inline constexpr uint32_t kBlockTokens = 16;

// A value of the program: (rows of the step, width), in each form that somebody reads it in, one form behind the other.
struct Slot {
  uint32_t width, stride;  // stride: of rows of floats
  uint32_t last_use;  // number of the last instruction that reads it
  bool is_written;
  bool is_stored;  // false: it only stands between operators that run as one
  Forms forms;
  size_t offset;  // floats from the start of scratch

  bool has(Form form) const { return (forms & bit(form)) != 0; }
  // The form in which a matrix of `dtype` finds these rows, if they have it: see can_read.
  Form found_by(uint32_t dtype) const {
    return is_whole(dtype) && has(Form::kWholeFor4) ? Form::kWholeFor4 : form_of(dtype);
  }
  size_t row_bytes(Form form) const { return form == Form::kF32 ? stride * sizeof(float) : input_stride(form, width); }
};

// A slot as whoever makes it writes it.
struct Target {
  std::byte *base[std::size(kForms)];  // of the rows in each form; none without
  size_t stride[std::size(kForms)];    // in bytes

  // Columns of a row, from `column` on, in every form; `column` a multiple of the reach of each. Floats may stand in
  // their place already.
  void write(size_t row, size_t column, const float *x, size_t count) const {
    for (const Form form : kForms) {
      const auto i = static_cast<size_t>(form);
      if (base[i] == nullptr) continue;
      std::byte *to = base[i] + row * stride[i] + input_offset(form, column);
      if (form != Form::kF32) make_input(form, x, count, to);
      else if (to != reinterpret_cast<const std::byte *>(x)) std::memcpy(to, x, count * sizeof(float));
    }
  }
};

// Where the keys and values of one attention lie inside a block: see kv_store.h.
struct Store {
  uint32_t value_stride;  // cells from the values of one cell of tokens to those of the next
  size_t offset;          // bytes to the first head
  size_t head_bytes;      // from one head to the next
  size_t values, key_scales, value_scales;  // bytes from a head's keys, which come first
};

constexpr bool is_kv_dtype(uint32_t dtype) {
  return dtype == THALOOM_F32 || dtype == THALOOM_BF16 || dtype == THALOOM_F16 || dtype == THALOOM_I8;
}

// Keys and values lie in cells of 32 bits, of so many numbers.
constexpr size_t numbers_in_cell(uint32_t dtype) {
  return dtype == THALOOM_F32 ? 1 : dtype == THALOOM_BF16 || dtype == THALOOM_F16 ? 2 : 4;
}

// The angles of one set of frequencies, computed once a step: (rows, 2, pairs), cosines then sines.
struct Turn {
  uint32_t table, pairs;
  double factor;
  size_t offset;  // floats from the start of scratch
};

struct Operation {
  thaloom_instruction told;
  uint32_t store;  // attention: number of its Store
  uint32_t turn;   // rope: number of its Turn

  // What fuse.h made of it. Those after the first of a span are done with it.
  uint32_t span;      // operators that run as one
  int32_t out;        // slot that the last of them writes
  int32_t added;      // linear: slot added to the product, or -1
  uint32_t up, gate;  // linear: numbers of the product itself, and of the one that gates it or kNone
};
inline constexpr uint32_t kNone = UINT32_MAX;

// Scratch of single operators, in floats from the start of scratch.
struct Workspaces {
  size_t attention, attention_stride;  // see AttentionScratch; for each thread
  size_t parts, parts_floats;          // attention: where threads share a row
  size_t experts;                // moe: see experts.h
  size_t adapters, adapters_stride;  // lora: (rows, rank), then (rows, width)
  size_t inputs;                 // rows made ready for one product: see inputs.h
};

struct Program {
  Array<Operation> operations;
  Array<Slot> slots;
  Array<thaloom_weight> weights;
  Array<double> tables;
  Array<Store> stores;
  Array<Turn> turns;
  uint32_t num_stores = 0, num_turns = 0;
  uint32_t kv_dtype = 0, num_threads = 1, max_rows = 0, max_sequences = 0, max_context = 0;
  uint32_t vocab_size = 0;  // of its smallest embedding
  uint32_t result_width = 0, result_stride = 0;
  uint32_t most_experts = 0, most_chosen = 0;
  size_t block_bytes = 0;
  size_t scratch_floats = 0;
  Workspaces workspaces = {};

  Matrices matrices(int32_t weight) const { return Matrices(weights[static_cast<size_t>(weight)]); }
  const float *vector(int32_t weight) const {
    return weight < 0 ? nullptr : static_cast<const float *>(weights[static_cast<size_t>(weight)].data);
  }
  const Slot &slot(int32_t number) const { return slots[static_cast<size_t>(number)]; }

  // Floats that all forms of a slot take.
  size_t floats_of(const Slot &slot) const {
    size_t num_bytes = 0;
    for (const Form form : kForms) num_bytes += slot.has(form) ? max_rows * slot.row_bytes(form) : 0;
    return num_bytes / sizeof(float);
  }

  Target target(int32_t slot, float *scratch) const {
    const Slot &of = this->slot(slot);
    Target target = {};
    auto *at = reinterpret_cast<std::byte *>(scratch + of.offset);
    for (const Form form : kForms) {
      if (!of.has(form)) continue;
      const auto i = static_cast<size_t>(form);
      target.base[i] = at;
      target.stride[i] = of.row_bytes(form);
      at += max_rows * of.row_bytes(form);
    }
    return target;
  }

  // The rows of a slot as floats, which come first, if it has them.
  Rows value(int32_t slot, float *scratch) const { return {scratch + this->slot(slot).offset, this->slot(slot).stride}; }
};

}  // namespace thaloom
