// What of a program runs as one: found when it is read, never seen from outside, and of the same result to the bit.
//
// * Two products of the same rows and the gate that joins them: each tile gates its own sums.
// * A product and the sum that takes it up: each tile adds the other summand (the residual) to its own sums.
// * Operators that work row by row, one after another: all of them on a row while it is in the cache.
// * What makes a value and what makes it ready for the products that read it: see Slot.
//
// A slot that only stood between two operators that became one is never stored. Slots read by what runs as one live
// until all of it has run, because its rows and tiles are done in any order.
#pragma once

#include "program.h"

namespace thaloom {

inline int num_inputs(const thaloom_instruction &t) {
  switch (t.op) {
    case THALOOM_EMBEDDING: return 0;
    case THALOOM_GATED:
    case THALOOM_ADD:
    case THALOOM_LORA: return 2;
    case THALOOM_ATTENTION: return t.slots[2] == -1 ? 2 : 3;
    default: return 1;
  }
}

inline bool is_by_rows(const thaloom_instruction &t) {
  return t.op == THALOOM_EMBEDDING || t.op == THALOOM_RMSNORM || t.op == THALOOM_ROPE || t.op == THALOOM_GATED ||
         t.op == THALOOM_ADD;
}

class Fuser {
 public:
  explicit Fuser(Program &program) : p(program) {}

  // False if there is no memory to do it.
  bool fuse() {
    if (!num_readers.allocate(p.slots.size())) return false;
    for (const Operation &op : p.operations)
      for (int i = 0; i < num_inputs(op.told); ++i) ++num_readers[static_cast<size_t>(op.told.slots[i])];
    for (uint32_t i = 0; i < p.operations.size(); i += p.operations[i].span) {
      Operation &op = p.operations[i];
      op.up = i;
      op.gate = kNone;
      op.added = -1;
      op.out = op.told.out;
      op.span = 1;
      if (op.told.op == THALOOM_LINEAR) fuse_product(i);
      else if (is_by_rows(op.told)) fuse_rows(i);
      keep_inputs(i);
    }
    choose_forms();
    return true;
  }

 private:
  Program &p;
  Array<uint32_t> num_readers;

  const thaloom_instruction *at(size_t number) const {
    return number < p.operations.size() ? &p.operations[number].told : nullptr;
  }

  bool is_read_once(int32_t slot) const { return num_readers[static_cast<size_t>(slot)] == 1; }

  void fuse_product(uint32_t number) {
    Operation &op = p.operations[number];
    const thaloom_instruction &first = op.told, *second = at(number + 1), *third = at(number + 2);
    if (second == nullptr || !is_read_once(first.out)) return;
    if (second->op == THALOOM_ADD && (second->slots[0] == first.out || second->slots[1] == first.out)) {
      op.added = second->slots[second->slots[0] == first.out ? 1 : 0];
      op.span = 2;
    } else if (third != nullptr && third->op == THALOOM_GATED && is_pair(first, *second, *third)) {
      const bool is_gate_first = third->slots[0] == first.out;
      op.gate = number + (is_gate_first ? 0 : 1);
      op.up = number + (is_gate_first ? 1 : 0);
      op.span = 3;
    }
    for (uint32_t i = 0; i + 1 < op.span; ++i)
      p.slots[static_cast<size_t>(p.operations[number + i].told.out)].is_stored = false;
    op.out = p.operations[number + op.span - 1].told.out;
  }

  bool is_pair(const thaloom_instruction &first, const thaloom_instruction &second, const thaloom_instruction &gated) const {
    return second.op == THALOOM_LINEAR && second.slots[0] == first.slots[0] && is_read_once(second.out) &&
           p.matrices(first.weights[0]).dtype == p.matrices(second.weights[0]).dtype &&
           ((gated.slots[0] == first.out && gated.slots[1] == second.out) ||
            (gated.slots[1] == first.out && gated.slots[0] == second.out));
  }

  void fuse_rows(uint32_t number) {
    uint32_t &span = p.operations[number].span;
    while (number + span < p.operations.size() && is_by_rows(p.operations[number + span].told)) ++span;
  }

  // The forms of each slot: those that it is read in, as far as whoever writes it can make them; else floats, which the
  // reader makes ready for itself.
  void choose_forms() {
    for (Slot &slot : p.slots) slot.forms = 0;
    for (const Operation &op : p.operations)
      for (int i = 0; i < num_inputs(op.told); ++i)
        slot(op.told.slots[i]).forms |=
            bit(op.told.op == THALOOM_LINEAR ? form_of(p.matrices(op.told.weights[0]).dtype) : Form::kF32);
    for (uint32_t i = 0; i < p.operations.size(); i += p.operations[i].span) {
      const Operation &op = p.operations[i];
      if (is_by_rows(op.told))
        for (uint32_t k = i; k < i + op.span; ++k) settle(slot(p.operations[k].told.out), op.told);
      else settle(slot(op.out), op.told);
    }
  }

  static void settle(Slot &out, const thaloom_instruction &maker) {
    if (out.has(Form::kWholeFor4)) out.forms &= ~bit(Form::kWhole);  // see can_read
    Forms makes = bit(Form::kF32);
    for (const Form form : kForms)
      if (can_make(maker, form)) makes |= bit(form);
    if (is_by_rows(maker) || out.forms == 0 || (out.forms & ~makes) != 0) out.forms |= bit(Form::kF32);
    out.forms &= makes;
  }

  static bool can_make(const thaloom_instruction &t, Form form) {
    if (t.op == THALOOM_ATTENTION) return t.numbers[3] % form_reach(form) == 0;  // head after head
    return t.op == THALOOM_LINEAR || is_by_rows(t);
  }

  Slot &slot(int32_t number) { return p.slots[static_cast<size_t>(number)]; }

  void keep_inputs(uint32_t number) {
    const uint32_t last = number + p.operations[number].span - 1;
    for (uint32_t i = number; i <= last; ++i) {
      const thaloom_instruction &t = p.operations[i].told;
      for (int k = 0; k < num_inputs(t); ++k) {
        uint32_t &last_use = p.slots[static_cast<size_t>(t.slots[k])].last_use;
        last_use = last_use < last ? last : last_use;
      }
    }
  }
};

}  // namespace thaloom
