// The operators that take a row of the step to a row: each may run on any row at any time after those before it have
// run on that row.
#pragma once

#include "functions.h"
#include "norm.h"
#include "program.h"
#include "rope.h"

namespace thaloom {

struct RowWork {
  const Program &program;
  const thaloom_step &step;
  float *scratch;

  Rows value(int32_t slot) const { return program.value(slot, scratch); }

  // Of one row, as the number of floats that would take as long to copy, about.
  size_t cost(const thaloom_instruction &t) const {
    const size_t width = program.slot(t.out).width;
    return t.op == THALOOM_EMBEDDING || t.op == THALOOM_GATED ? width * 8 : width;
  }

  void run(const Operation &op, size_t r) const {
    const thaloom_instruction &t = op.told;
    make(op, r);
    if (program.slot(t.out).forms != bit(Form::kF32))
      program.target(t.out, scratch).write(r, 0, value(t.out).at(r), program.slot(t.out).width);
  }

 private:
  void make(const Operation &op, size_t r) const {
    const thaloom_instruction &t = op.told;
    const Slot &slot = program.slot(t.out);
    float *out = value(t.out).at(r);
    switch (t.op) {
      case THALOOM_EMBEDDING: {
        const Matrices table = program.matrices(t.weights[0]);
        const auto scale = static_cast<float>(t.reals[0]);
        table.read_row(static_cast<size_t>(step.tokens[r]), out);
        for (size_t k = 0; k < table.columns; ++k) out[k] *= scale;
        break;
      }
      case THALOOM_RMSNORM: {
        const float *x = value(t.slots[0]).at(r);
        const auto eps = static_cast<float>(t.reals[0]), offset = static_cast<float>(t.reals[1]);
        for (uint32_t k = 0; k < slot.width; k += t.numbers[0])
          rmsnorm_group(x + k, program.vector(t.weights[0]), out + k, t.numbers[0], eps, offset);
        break;
      }
      case THALOOM_ROPE: {
        const Turn &turn = program.turns[op.turn];
        const float *x = value(t.slots[0]).at(r), *angles = scratch + turn.offset + r * 2 * turn.pairs;
        for (uint32_t k = 0; k < slot.width; k += t.numbers[0])
          rope_head(x + k, angles, out + k, t.numbers[0], turn.pairs, t.numbers[2] != 0);
        break;
      }
      case THALOOM_GATED:
        gate_row(t.numbers[0], value(t.slots[0]).at(r), value(t.slots[1]).at(r), out, slot.stride);
        break;
      default: {  // add
        const float *a = value(t.slots[0]).at(r), *b = value(t.slots[1]).at(r);
        for (size_t k = 0; k < slot.stride; k += kLanes) thaloom::store(out + k, load(a + k) + load(b + k));
      }
    }
  }
};

}  // namespace thaloom
