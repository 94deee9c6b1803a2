// From a program as it came over the border to one that can be run, or a refusal that says what is wrong with it.
#pragma once

#include <cmath>
#include <cstdarg>
#include <cstdio>

#include "attention.h"
#include "fuse.h"
#include "inputs.h"
#include "program.h"

namespace thaloom {

inline constexpr uint32_t kMostInstructions = 1u << 16;
inline constexpr uint32_t kMostRows = 1u << 16;
inline constexpr uint32_t kMostContext = 1u << 24;
inline constexpr uint32_t kMostTableValues = 1u << 24;
inline constexpr uint32_t kMostThreads = 1024;

// Writes why into `message` and gives `status` back, so that a refusal is one line where it is found.
__attribute__((format(printf, 3, 4))) inline int32_t refuse(thaloom_message *message, int32_t status,
                                                            const char *format, ...) {
  if (message == nullptr) return status;
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message->text, sizeof message->text, format, arguments);
  va_end(arguments);
  return status;
}

class ProgramReader {
 public:
  ProgramReader(Program &program, thaloom_message *message) : p(program), message(message) {}

  int32_t read(const thaloom_program *told) {
    if (int32_t status = copy(told)) return status;
    if (int32_t status = check_weights()) return status;
    for (uint32_t i = 0; i < p.operations.size(); ++i)
      if (int32_t status = check_operation(i)) return status;
    if (!Fuser(p).fuse()) return refuse(message, THALOOM_NO_MEMORY, "no memory to read a program");
    return place();
  }

 private:
  Program &p;
  thaloom_message *message;
  Workspaces needed = {};  // here in floats, for the largest operator of each kind

  int32_t copy(const thaloom_program *told) {
    if (told == nullptr) return bad("no program");
    if (told->abi != THALOOM_CPU_ABI || told->struct_bytes != sizeof *told) return bad("a program of another interface");
    const bool is_sized = told->num_instructions && told->num_instructions <= kMostInstructions && told->num_slots &&
                          told->num_slots <= kMostInstructions && told->num_weights <= kMostInstructions &&
                          told->num_table_values <= kMostTableValues;
    const bool is_limited = told->max_rows && told->max_rows <= kMostRows && told->max_sequences &&
                            told->max_sequences <= kMostRows && told->max_context &&
                            told->max_context <= kMostContext && told->num_threads &&
                            told->num_threads <= kMostThreads &&
                            is_kv_dtype(told->kv_dtype);
    if (!is_sized || !is_limited) return bad("a count or a limit of the program is out of range");
    if (!told->instructions || !told->widths || (told->num_weights && !told->weights) ||
        (told->num_table_values && !told->tables))
      return bad("an array of the program is missing");
    p.kv_dtype = told->kv_dtype;
    p.num_threads = told->num_threads;
    p.max_rows = told->max_rows;
    p.max_sequences = told->max_sequences;
    p.max_context = told->max_context;
    p.vocab_size = kMostColumns;
    if (!p.operations.allocate(told->num_instructions) || !p.slots.allocate(told->num_slots) ||
        !p.weights.allocate(told->num_weights) || !p.tables.allocate(told->num_table_values) ||
        !p.stores.allocate(told->num_instructions) || !p.turns.allocate(told->num_instructions))
      return refuse(message, THALOOM_NO_MEMORY, "no memory for a program of %u instructions", told->num_instructions);
    for (uint32_t i = 0; i < told->num_instructions; ++i) p.operations[i].told = told->instructions[i];
    for (uint32_t i = 0; i < told->num_weights; ++i) p.weights[i] = told->weights[i];
    for (uint32_t i = 0; i < told->num_table_values; ++i) p.tables[i] = told->tables[i];
    for (uint32_t i = 0; i < told->num_slots; ++i) {
      const uint32_t width = told->widths[i];
      if (width == 0 || width > kMostColumns) return bad("slot %u has %u columns", i, width);
      p.slots[i] = {.width = width, .stride = static_cast<uint32_t>(round_up(width, kGroup)), .last_use = 0,
                    .is_written = false, .is_stored = true, .forms = 0, .offset = 0};
    }
    return THALOOM_OK;
  }

  int32_t check_weights() {
    for (uint32_t i = 0; i < p.weights.size(); ++i) {
      const thaloom_weight &w = p.weights[i];
      const bool is_vector = w.kind == THALOOM_VECTOR && w.dtype == THALOOM_F32 && w.count == 1 && w.rows == 1 &&
                             w.columns && w.columns <= kMostColumns;
      const uint64_t num_bytes = is_vector                      ? round_up(w.columns, kGroup) * sizeof(float)
                                 : w.kind == THALOOM_MATRICES ? packed_bytes(w.dtype, w.count, w.rows, w.columns)
                                                              : 0;
      if (num_bytes == 0 || w.data == nullptr || w.num_bytes < num_bytes || reinterpret_cast<uintptr_t>(w.data) % 64)
        return bad("weight %u is malformed (kind %u, dtype %u, %u x %u x %u)", i, w.kind, w.dtype, w.count, w.rows,
                   w.columns);
    }
    return THALOOM_OK;
  }

  int32_t check_operation(uint32_t number) {
    Operation &op = p.operations[number];
    const thaloom_instruction &t = op.told;
    if (t.op >= THALOOM_NUM_OPS) return bad("instruction %u: unknown operator %u", number, t.op);
    if (t.out < 0 || static_cast<size_t>(t.out) >= p.slots.size() || p.slot(t.out).is_written)
      return bad("instruction %u: slot %d cannot be written", number, t.out);
    if (t.table > p.tables.size() || t.table_length > p.tables.size() - t.table)
      return bad("instruction %u: its table lies outside the tables", number);
    const bool is_result = t.op == THALOOM_LOGITS || t.op == THALOOM_POOL;
    if (is_result != (number + 1 == p.operations.size()))
      return bad("instruction %u: a program ends with logits or pool, and has them only there", number);
    for (int i = 0; i < num_inputs(t); ++i)
      if (width_of(t, i) == 0) return bad("instruction %u: slot %d cannot be read", number, t.slots[i]);
    if (!fits(op)) return bad("instruction %u: slots, weights and attributes of operator %u do not fit", number, t.op);
    for (int i = 0; i < num_inputs(t); ++i) p.slots[static_cast<size_t>(t.slots[i])].last_use = number;
    Slot &out = p.slots[static_cast<size_t>(t.out)];
    out.is_written = true;
    out.last_use = UINT32_MAX;  // until somebody reads it: neighbours that run side by side never share memory
    return THALOOM_OK;
  }

  bool fits(Operation &op) {
    const thaloom_instruction &t = op.told;
    const uint32_t out = p.slot(t.out).width;
    switch (t.op) {
      case THALOOM_EMBEDDING: return fits_embedding(t, out);
      case THALOOM_RMSNORM: return fits_rmsnorm(op.told, out);
      case THALOOM_LINEAR:
        return is_matrix(t.weights[0], 1, out, width_of(t, 0)) &&
               (t.weights[1] == -1 || is_vector(t.weights[1], out)) && needs_inputs(t.weights[0], p.max_rows, false);
      case THALOOM_ROPE: return fits_rope(op, out);
      case THALOOM_ATTENTION: return fits_attention(op, out);
      case THALOOM_GATED:
        return width_of(t, 0) == out && width_of(t, 1) == out && t.numbers[0] <= THALOOM_RELU;
      case THALOOM_ADD: return width_of(t, 0) == out && width_of(t, 1) == out;
      case THALOOM_MOE: return fits_moe(t, out);
      case THALOOM_LORA: return fits_lora(t, out);
      case THALOOM_POOL: return width_of(t, 0) == out && fits_result(out);
      default:
        return is_matrix(t.weights[0], 1, out, width_of(t, 0)) && fits_result(out) &&
               needs_inputs(t.weights[0], p.max_rows, true);
    }
  }

  bool fits_embedding(const thaloom_instruction &t, uint32_t out) {
    if (!is_weight(t.weights[0], THALOOM_MATRICES)) return false;
    const thaloom_weight &table = p.weights[static_cast<size_t>(t.weights[0])];
    p.vocab_size = table.rows < p.vocab_size ? table.rows : p.vocab_size;
    return table.count == 1 && table.columns == out;
  }

  bool fits_rmsnorm(thaloom_instruction &t, uint32_t out) {
    if (t.numbers[0] == 0) t.numbers[0] = out;
    return width_of(t, 0) == out && out % t.numbers[0] == 0 && is_vector(t.weights[0], t.numbers[0]);
  }

  bool fits_rope(Operation &op, uint32_t out) {
    const thaloom_instruction &t = op.told;
    const uint32_t head_size = t.numbers[0], rotary_size = t.numbers[1];
    if (width_of(t, 0) != out || !head_size || out % head_size || !rotary_size || rotary_size > head_size ||
        rotary_size % 2 || t.table_length != rotary_size / 2)
      return false;
    for (op.turn = 0; op.turn < p.num_turns; ++op.turn) {
      const Turn &turn = p.turns[op.turn];
      if (turn.table == t.table && turn.pairs == t.table_length && turn.factor == t.reals[0]) return true;
    }
    p.turns[p.num_turns++] = {.table = t.table, .pairs = t.table_length, .factor = t.reals[0], .offset = 0};
    return true;
  }

  bool fits_attention(Operation &op, uint32_t out) {
    const thaloom_instruction &t = op.told;
    const uint64_t num_heads = t.numbers[0], num_kv_heads = t.numbers[1], head_size = t.numbers[2];
    const uint64_t value_size = t.numbers[3];
    const bool is_sized = num_heads && num_kv_heads && head_size && value_size && num_heads % num_kv_heads == 0 &&
                          width_of(t, 0) == num_heads * head_size && width_of(t, 1) == num_kv_heads * head_size &&
                          out == num_heads * value_size;
    if (!is_sized || (t.table_length && t.table_length != num_heads)) return false;
    if (t.slots[2] == -1 ? value_size > head_size : width_of(t, 2) != num_kv_heads * value_size) return false;
    op.store = p.num_stores++;
    p.stores[op.store] = place_kept(num_kv_heads, head_size, value_size);
    const size_t floats = AttentionScratch::floats(num_heads / num_kv_heads, head_size, value_size);
    needed.attention_stride = floats > needed.attention_stride ? floats : needed.attention_stride;
    const size_t num_segments = (p.max_context + kSegment - 1) / kSegment;
    const size_t parts = p.num_threads * num_heads * num_segments * Parts::floats(value_size);
    needed.parts_floats = parts > needed.parts_floats ? parts : needed.parts_floats;
    return true;
  }

  Store place_kept(size_t num_kv_heads, size_t head_size, size_t value_size) {
    const size_t numbers = numbers_in_cell(p.kv_dtype);
    const size_t scale_bytes = p.kv_dtype == THALOOM_I8 ? kBlockTokens * sizeof(float) : 0;
    Store store = {.value_stride = static_cast<uint32_t>(round_up(value_size, kGroup)), .offset = p.block_bytes,
                   .head_bytes = 0, .values = 0, .key_scales = 0, .value_scales = 0};
    store.key_scales = (head_size + numbers - 1) / numbers * kBlockTokens * 4;
    store.values = store.key_scales + scale_bytes;
    store.value_scales = store.values + kBlockTokens / numbers * store.value_stride * 4;
    store.head_bytes = store.value_scales + scale_bytes;
    p.block_bytes += num_kv_heads * store.head_bytes;
    return store;
  }

  bool fits_moe(const thaloom_instruction &t, uint32_t out) {
    if (!is_weight(t.weights[0], THALOOM_MATRICES) || !is_weight(t.weights[1], THALOOM_MATRICES)) return false;
    const uint32_t num_experts = p.weights[static_cast<size_t>(t.weights[0])].rows;
    const uint32_t width = p.weights[static_cast<size_t>(t.weights[1])].rows, top_k = t.numbers[0];
    if (width_of(t, 0) != out || num_experts > kMostExperts || !top_k || top_k > num_experts ||
        t.numbers[2] > THALOOM_RELU || !is_matrix(t.weights[0], 1, num_experts, out) ||
        !is_matrix(t.weights[1], num_experts, width, out) || !is_matrix(t.weights[2], num_experts, width, out) ||
        !is_matrix(t.weights[3], num_experts, out, width))
      return false;
    p.most_experts = num_experts > p.most_experts ? num_experts : p.most_experts;
    p.most_chosen = top_k > p.most_chosen ? top_k : p.most_chosen;
    const size_t floats = size_t{p.max_rows} * (round_up(num_experts, kGroup) +
                                                top_k * (2 * round_up(width, kGroup) + round_up(out, kGroup)));
    needed.experts = floats > needed.experts ? floats : needed.experts;
    for (int i = 0; i < 4; ++i) needs_inputs(t.weights[i], size_t{p.max_rows} * top_k, true);
    return true;
  }

  bool fits_lora(const thaloom_instruction &t, uint32_t out) {
    if (width_of(t, 1) != out || !is_weight(t.weights[0], THALOOM_MATRICES) || t.numbers[0] > INT32_MAX) return false;
    const uint32_t rank = p.weights[static_cast<size_t>(t.weights[0])].rows;
    const size_t floats = round_up(rank, kGroup) + round_up(out, kGroup);
    needed.adapters_stride = floats > needed.adapters_stride ? floats : needed.adapters_stride;
    return is_matrix(t.weights[0], 1, rank, width_of(t, 0)) && is_matrix(t.weights[1], 1, out, rank) &&
           needs_inputs(t.weights[0], p.max_rows, true) && needs_inputs(t.weights[1], p.max_rows, true);
  }

  // Room for so many rows as this matrix reads them; `is_copied`: even where it reads floats. Always true.
  bool needs_inputs(int32_t weight, size_t num_rows, bool is_copied) {
    const thaloom_weight &w = p.weights[static_cast<size_t>(weight)];
    const Form form = form_of(w.dtype);
    if (form == Form::kF32 && !is_copied) return true;
    const size_t floats = num_rows * input_stride(form, w.columns) / sizeof(float);
    needed.inputs = floats > needed.inputs ? floats : needed.inputs;
    return true;
  }

  bool fits_result(uint32_t out) {
    p.result_width = out;
    p.result_stride = static_cast<uint32_t>(round_up(out, kGroup));
    return true;
  }

  // Columns of the slot that input `which` names, or 0 if it may not be read.
  uint32_t width_of(const thaloom_instruction &t, int which) const {
    const int32_t slot = t.slots[which];
    if (slot < 0 || static_cast<size_t>(slot) >= p.slots.size() || !p.slot(slot).is_written) return 0;
    return p.slot(slot).width;
  }

  bool is_weight(int32_t weight, uint32_t kind) const {
    return weight >= 0 && static_cast<size_t>(weight) < p.weights.size() &&
           p.weights[static_cast<size_t>(weight)].kind == kind;
  }

  bool is_matrix(int32_t weight, uint32_t count, uint32_t rows, uint32_t columns) const {
    if (!is_weight(weight, THALOOM_MATRICES)) return false;
    const thaloom_weight &w = p.weights[static_cast<size_t>(weight)];
    return w.count == count && w.rows == rows && w.columns == columns;
  }

  bool is_vector(int32_t weight, uint32_t columns) const {
    return is_weight(weight, THALOOM_VECTOR) && p.weights[static_cast<size_t>(weight)].columns == columns;
  }

  // Slots that do not live at the same time share memory: each goes to the lowest place free of those still read.
  int32_t place() {
    Array<uint32_t> living;  // sorted by offset
    if (!living.allocate(p.slots.size())) return refuse(message, THALOOM_NO_MEMORY, "no memory to place slots");
    size_t num_living = 0, end = 0;
    for (uint32_t i = 0; i + 1 < p.operations.size(); ++i) {  // the last writes to the caller's result
      size_t kept = 0;
      for (size_t j = 0; j < num_living; ++j)
        if (p.slots[living[j]].last_use >= i) living[kept++] = living[j];
      num_living = kept;
      const auto out = static_cast<uint32_t>(p.operations[i].told.out);
      if (!p.slots[out].is_stored) continue;
      const size_t size = p.floats_of(p.slots[out]);
      size_t offset = 0, place = 0;
      for (; place < num_living && p.slots[living[place]].offset < offset + size; ++place)
        offset = p.slots[living[place]].offset + p.floats_of(p.slots[living[place]]);
      for (size_t j = num_living++; j > place; --j) living[j] = living[j - 1];
      living[place] = out;
      p.slots[out].offset = offset;
      end = offset + size > end ? offset + size : end;
    }
    for (uint32_t i = 0; i < p.num_turns; ++i) {
      p.turns[i].offset = end;
      end += round_up(size_t{p.max_rows} * 2 * p.turns[i].pairs, kGroup);
    }
    p.workspaces.attention_stride = round_up(needed.attention_stride, kGroup);
    p.workspaces.attention = end;
    end += p.workspaces.attention_stride * p.num_threads;
    p.workspaces.parts_floats = needed.parts_floats;
    p.workspaces.parts = end;
    end += p.workspaces.parts_floats;
    p.workspaces.experts = end;
    end += round_up(needed.experts, kGroup);
    p.workspaces.adapters = end;
    p.workspaces.adapters_stride = needed.adapters_stride;
    end += round_up(needed.adapters_stride * p.max_rows, kGroup);
    p.workspaces.inputs = end;
    p.scratch_floats = end + needed.inputs;
    if (p.scratch_floats > SIZE_MAX / 64) return bad("the program needs more scratch than can be addressed");
    return THALOOM_OK;
  }

  template <class... Arguments>
  int32_t bad(const char *format, Arguments... arguments) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
#pragma GCC diagnostic ignored "-Wformat-security"
    return refuse(message, THALOOM_BAD_PROGRAM, format, arguments...);
#pragma GCC diagnostic pop
  }
};

}  // namespace thaloom
