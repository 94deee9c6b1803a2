// A program with its threads, its scratch and its pool, and the run of one step through it.
//
// A step is checked whole before anything is written. Then its instructions run in order; each is cut among the
// threads where it is large enough to pay for waking them, and neighbouring products of the same rows run as one.
#pragma once

#include <unistd.h>

#include <algorithm>
#include <atomic>

#include "attend.h"
#include "check_step.h"
#include "experts.h"
#include "highest.h"
#include "linear.h"
#include "program.h"
#include "read_program.h"
#include "rows.h"
#include "sample.h"
#include "threads.h"

namespace thaloom {

// Floats an elementwise region must touch before it is worth sharing: below it, the hand-over costs more.
inline constexpr size_t kWorthSharing = 4096;

class Executable {
 public:
  Program program;

  int32_t prepare(float *scratch, thaloom_message *message) {
    scratch_ = scratch;
    process_ = getpid();
    const size_t rows = program.max_rows;
    if (!places_.allocate(rows) || !adapted_.allocate(rows) || !ranges_.allocate(rows) ||
        !choices_.allocate(program.most_experts ? rows : 0, program.most_experts, program.most_chosen) ||
        (gives_logits(program) &&
         (!samplers_.allocate(program.num_threads, program.result_width) || !highest_.allocate(rows))))
      return refuse(message, THALOOM_NO_MEMORY, "no memory for an executable of %zu rows", rows);
    if (!threads_.start(program.num_threads))
      return refuse(message, THALOOM_NO_THREADS, "the system refused %u threads", program.num_threads);
    return THALOOM_OK;
  }

  ~Executable() {
    if (process_ != getpid()) threads_.abandon();
  }

  int32_t bind(char *pool, uint64_t pool_bytes, uint32_t num_blocks, thaloom_message *message) {
    if (pool == nullptr || reinterpret_cast<uintptr_t>(pool) % 64)
      return refuse(message, THALOOM_BAD_STEP, "the pool is missing or not aligned to 64 bytes");
    if (program.block_bytes != 0 && num_blocks > pool_bytes / program.block_bytes)
      return refuse(message, THALOOM_BAD_STEP, "%u blocks of %zu bytes do not fit a pool of %llu", num_blocks,
                    program.block_bytes, static_cast<unsigned long long>(pool_bytes));
    pool_ = pool;
    num_blocks_ = num_blocks;
    return THALOOM_OK;
  }

  int32_t copy_block(uint32_t source, uint32_t target, thaloom_message *message) {
    if (pool_ == nullptr || source >= num_blocks_ || target >= num_blocks_)
      return refuse(message, THALOOM_BAD_STEP, "block %u or %u is outside the pool of %u", source, target, num_blocks_);
    if (source != target)
      std::memcpy(pool_ + target * program.block_bytes, pool_ + source * program.block_bytes, program.block_bytes);
    return THALOOM_OK;
  }

  int32_t run(const thaloom_step &told, thaloom_message *message) {
    step_ = told;
    const StepChecker checker(program, step_, pool_ == nullptr ? 0 : num_blocks_, places_, message);
    if (int32_t status = checker.check()) return status;
    num_kept_ = 0;
    turn();
    for (size_t i = 0; i < program.operations.size();) i += run_operation(i);
    if (step_.is_greedy) num_kept_ = step_.num_outputs;
    return THALOOM_OK;
  }

  int32_t draw(const thaloom_draws &told, thaloom_message *message) {
    if (int32_t status = check_draws(program, told, num_kept_, message)) return status;
    if (num_kept_) {
      for (uint32_t i = 0; i < told.num_draws; ++i) highest_.tell(told.wishes[i].row, told.drawn[i]);
      return THALOOM_OK;
    }
    const auto work = [&](uint32_t thread) {
      const auto [begin, end] = share(told.num_draws, thread, threads_.size());
      for (size_t i = begin; i < end; ++i)
        samplers_[thread].draw(told.logits + size_t{told.wishes[i].row} * program.result_stride, program.result_width,
                               told.wishes[i], told.drawn[i], told.top + i * told.top_columns);
    };
    if (told.num_draws < 2 || told.num_draws * size_t{program.result_width} < kWorthSharing)
      for (uint32_t thread = 0; thread < threads_.size(); ++thread) work(thread);
    else threads_.run(work);
    return THALOOM_OK;
  }

  // At most one call is inside, and only in the process that made the threads.
  class Turnstile {
   public:
    explicit Turnstile(Executable &executable) : executable_(executable) {
      is_inside = executable.process_ == getpid() && !executable.is_busy_.exchange(true, std::memory_order_acquire);
    }
    Turnstile(const Turnstile &) = delete;
    Turnstile &operator=(const Turnstile &) = delete;
    ~Turnstile() {
      if (is_inside) executable_.is_busy_.store(false, std::memory_order_release);
    }
    bool is_inside;

   private:
    Executable &executable_;
  };

 private:
  Threads threads_;
  float *scratch_ = nullptr;
  char *pool_ = nullptr;
  uint32_t num_blocks_ = 0;
  pid_t process_ = 0;
  thaloom_step step_ = {};
  Array<uint64_t> places_;    // for the check
  Array<int32_t> adapted_;    // rows of one adapter
  Array<RowRange> ranges_;    // for attention
  Choices choices_;
  Samplers samplers_;
  Highest highest_;
  Bounds bounds_;
  uint32_t num_kept_ = 0;  // rows of the last step of which only the likeliest token is known
  std::atomic<bool> is_busy_{false};

  Rows value(int32_t slot) const {
    return program.value(slot, scratch_);
  }

  // f(row) for every row of the step, shared among the threads if `floats` of each are worth it.
  template <class F>
  void each_row(size_t num_rows, size_t floats, const F &f) {
    const auto work = [&](size_t begin, size_t end) {
      for (size_t r = begin; r < end; ++r) f(r);
    };
    if (num_rows * floats < kWorthSharing) work(0, num_rows);
    else threads_.run_pieces(num_rows, (num_rows + 4 * threads_.size() - 1) / (4 * threads_.size()), work);
  }

  static Inputs in_place(const Rows &rows) {
    return {reinterpret_cast<const std::byte *>(rows.base), rows.stride * sizeof(float)};
  }

  // A slot's rows as a matrix of `dtype` reads them: as whoever made them left them, else made ready in the workspace.
  Inputs inputs(uint32_t dtype, int32_t slot, size_t columns) {
    const Target made = program.target(slot, scratch_);
    const auto i = static_cast<size_t>(program.slot(slot).found_by(dtype));
    if (made.base[i] != nullptr) return {made.base[i], made.stride[i]};
    return ready(dtype, value(slot), step_.num_rows, columns);
  }

  // Rows of floats as a matrix of `dtype` reads them: where they stand if it can, else made ready in the workspace.
  Inputs ready(uint32_t dtype, const Rows &rows, size_t num_rows, size_t columns) {
    const Form form = form_of(dtype);
    if (form == Form::kF32 && rows.index == nullptr) return in_place(rows);
    auto *to = reinterpret_cast<std::byte *>(scratch_ + program.workspaces.inputs);
    const size_t stride = input_stride(form, columns);
    each_row(num_rows, columns, [&](size_t r) { make_input(form, rows.at(r), columns, to + r * stride); });
    return {to, stride};
  }

  void turn() {
    for (uint32_t i = 0; i < program.num_turns; ++i) {
      const Turn &turn = program.turns[i];
      each_row(step_.num_rows, turn.pairs * 64, [&](size_t r) {  // a sine costs as much as many products
        turn_row(&program.tables[turn.table], turn.pairs, turn.factor, step_.positions[r],
                 scratch_ + turn.offset + r * 2 * turn.pairs);
      });
    }
  }

  // Runs the operation, and those after it that can run with it. Gives their number.
  size_t run_operation(size_t number) {
    const Operation &op = program.operations[number];
    const thaloom_instruction &t = op.told;
    switch (t.op) {
      case THALOOM_LINEAR: return multiply_all(number);
      case THALOOM_ATTENTION: Attention(program, op, step_, threads_, pool_, scratch_, ranges_).run(); break;
      case THALOOM_MOE:
        mix_experts(
            program, t, threads_, choices_, value(t.slots[0]), value(t.out), step_.num_rows,
            scratch_ + program.workspaces.experts,
            [&](auto &&...what) { return ready(what...); });
        break;
      case THALOOM_LORA: adapt(t); break;
      case THALOOM_POOL:
        each_row(step_.num_outputs, program.result_width, [&](size_t i) {
          pool_row(value(t.slots[0]).at(static_cast<size_t>(step_.outputs[i])),
                   step_.result + i * program.result_stride, program.result_width, t.numbers[0] != 0);
        });
        break;
      case THALOOM_LOGITS: step_.gives_states ? tell_states(t) : score_vocabulary(t); break;
      default: run_by_rows(number);
    }
    return op.span;
  }

  // Operators that take a row to a row: all of the span on one row.
  void run_by_rows(size_t number) {
    const size_t after = number + program.operations[number].span;
    const RowWork rows = {program, step_, scratch_};
    size_t floats = 0;
    for (size_t i = number; i < after; ++i) floats += rows.cost(program.operations[i].told);
    each_row(step_.num_rows, floats, [&](size_t r) {
      for (size_t i = number; i < after; ++i) rows.run(program.operations[i], r);
    });
  }

  // One of the products that run as one.
  struct Task {
    Product product;
    Factor gate;
    Target target;
    Inputs in;
    size_t end;  // of its strips in the row of all of them
  };

  // One product with all that was fused into it, or neighbouring ones of the same rows: their strips of panels are laid
  // end to end and shared among the threads.
  size_t multiply_all(size_t number) {
    constexpr size_t kMost = 8;
    const Operation *const ops = &program.operations[number];
    size_t count = 1;
    while (count < kMost && run_together(ops[0], ops[count])) ++count;
    size_t num_panels = 0, most = SIZE_MAX;  // most: panels that all of them have tiles for
    for (size_t i = 0; i < count; ++i) num_panels += program.matrices(ops[i].told.weights[0]).num_panels;
    for (size_t i = 0; i < count; ++i)
      most = std::min(most, strip_panels(program.matrices(ops[i].told.weights[0]).dtype, step_.num_rows, num_panels,
                                         4 * threads_.size()));
    Task tasks[kMost];
    size_t strip = most, num_strips = 0;
    for (size_t i = 0; i < count; ++i) {
      const Matrices w = program.matrices(ops[i].told.weights[0]);
      begin_task(tasks[i], ops[i]);
      const bool is_same = i > 0 && can_read(w.dtype, tasks[0].product.up.w.dtype);
      tasks[i].in = is_same ? tasks[0].in : inputs(w.dtype, ops[i].told.slots[0], w.columns);
      strip = std::max(strip, tasks[i].product.unit);
    }
    for (size_t i = 0; i < count; ++i)
      tasks[i].end = num_strips += (tasks[i].product.up.w.num_panels + strip - 1) / strip;
    threads_.run_pieces(num_strips, 1, [&](size_t begin, size_t end) {
      for (size_t i = 0, start = 0; i < count; start = tasks[i++].end) {
        const Product &product = tasks[i].product;
        const size_t from = std::max(begin, start), to = std::min(end, tasks[i].end);
        if (from < to)
          multiply(product, (from - start) * strip, std::min<size_t>((to - start) * strip, product.up.w.num_panels), most,
                   tasks[i].in, step_.num_rows);
      }
    });
    return count == 1 ? ops[0].span : count;
  }

  // Whether `op` reads the rows that `leader` does, which stand there as it reads them, or as the leader does.
  bool run_together(const Operation &leader, const Operation &op) const {
    if (leader.span != 1 || op.told.op != THALOOM_LINEAR || op.span != 1 || op.told.slots[0] != leader.told.slots[0])
      return false;
    const uint32_t dtype = program.matrices(op.told.weights[0]).dtype;
    const Slot &x = program.slot(op.told.slots[0]);
    return x.has(x.found_by(dtype)) || can_read(dtype, program.matrices(leader.told.weights[0]).dtype);
  }

  void begin_task(Task &task, const Operation &op) const {
    task.product = {.up = factor(op.up)};
    if (op.gate != kNone) {
      task.gate = factor(op.gate);
      task.product.gate = &task.gate;
      task.product.activation = (&op)[2].told.numbers[0];
    }
    if (op.added >= 0) task.product.added = value(op.added);
    const Slot &out = program.slot(op.out);
    if (out.forms == bit(Form::kF32)) {
      task.product.out = value(op.out);
      return;
    }
    task.target = program.target(op.out, scratch_);
    task.product.target = &task.target;
    for (const Form form : kForms)
      if (out.has(form)) task.product.unit = std::max(task.product.unit, form_reach(form) / kGroup);
  }

  Factor factor(uint32_t number) const {
    const thaloom_instruction &t = program.operations[number].told;
    return {program.matrices(t.weights[0]), 0, program.vector(t.weights[1])};
  }

  void adapt(const thaloom_instruction &t) {
    const Matrices a = program.matrices(t.weights[0]), b = program.matrices(t.weights[1]);
    const uint32_t width = program.slot(t.out).width, num_rows = step_.num_rows;
    const auto scale = static_cast<float>(t.reals[0]);
    for (uint32_t r = 0; r < num_rows; ++r)
      std::memcpy(value(t.out).at(r), value(t.slots[1]).at(r), width * sizeof(float));
    size_t count = 0;
    for (uint32_t r = 0; step_.adapters != nullptr && r < num_rows; ++r)
      if (step_.adapters[r] == static_cast<int32_t>(t.numbers[0])) adapted_[count++] = static_cast<int32_t>(r);
    if (count == 0) return;
    float *scratch = scratch_ + program.workspaces.adapters;
    const Rows small{scratch, round_up(a.rows, kGroup)}, large{scratch + count * small.stride, round_up(width, kGroup)};
    const Rows x = value(t.slots[0]);
    const Inputs chosen = ready(a.dtype, {x.base, x.stride, adapted_.begin()}, count, a.columns);
    multiply({.up = {a}, .out = small}, 0, a.num_panels, strip_panels(a.dtype, count, a.num_panels, 1), chosen, count);
    const Inputs between = ready(b.dtype, small, count, b.columns);
    multiply_shared({.up = {b}, .out = large}, between, count, [](size_t, size_t) {});
    for (size_t i = 0; i < count; ++i) {
      float *out = value(t.out).at(static_cast<size_t>(adapted_[i]));
      for (uint32_t k = 0; k < width; ++k) out[k] += scale * large.at(i)[k];
    }
  }

  void tell_states(const thaloom_instruction &t) {
    const size_t width = program.matrices(t.weights[0]).columns, stride = state_stride(program);
    each_row(step_.num_outputs, width, [&](size_t i) {
      const float *x = value(t.slots[0]).at(static_cast<size_t>(step_.outputs[i]));
      std::memcpy(step_.result + i * stride, x, width * sizeof(float));
    });
  }

  void score_vocabulary(const thaloom_instruction &t) {
    const Matrices w = program.matrices(t.weights[0]);
    const Rows x = value(t.slots[0]), result{step_.result, program.result_stride};
    const Scaling scaling = {static_cast<float>(t.reals[0]), static_cast<float>(t.reals[1])};
    const Inputs inputs = ready(w.dtype, {x.base, x.stride, step_.outputs}, step_.num_outputs, w.columns);
    if (step_.is_greedy) {
      highest_.begin(step_.num_outputs, scaling);
      if (bounds_.begin(w, inputs, step_.num_outputs, scaling)) return find_highest(w, inputs);
      // Several panels at once, for most of a look at one is its beginning and its end.
      return multiply_shared({.up = {w}, .unit = kMostUnit, .highest = &highest_}, inputs, step_.num_outputs, [](size_t, size_t) {});
    }
    multiply_shared({.up = {w}, .out = result}, inputs, step_.num_outputs, [&](size_t begin, size_t end) {
      if (!scaling.changes()) return;
      for (size_t i = 0; i < step_.num_outputs; ++i)
        for (size_t k = begin * kGroup; k < end * kGroup; k += kLanes)
          thaloom::store(result.at(i) + k, scaling(load(result.at(i) + k)));
    });
  }

  // The likeliest token of each row, by reading all bits only of panels that bounds leave open.
  void find_highest(const Matrices &w, const Inputs &inputs) {
    const size_t num_rows = step_.num_outputs, num_pieces = (w.num_panels + kBoundedPanels - 1) / kBoundedPanels;
    const auto look_at = [&](size_t panel) {
      multiply({.up = {w}, .highest = &highest_, .goes_on = false}, panel, panel + 1, 1, inputs, num_rows);
    };
    // The tokens that come in are likely ones: whoever decodes chose them a step ago. From what is found there most others
    // are below.
    for (size_t r = 0; r < num_rows; ++r) {
      const auto token = static_cast<size_t>(step_.tokens[step_.outputs[r]]);
      if (token < w.rows) look_at(token / kGroup);
    }
    threads_.run_pieces(num_pieces, 1, [&](size_t begin, size_t end) {
      for (size_t piece = begin; piece < end; ++piece) {
        const size_t first = piece * kBoundedPanels;
        find_highest(w, inputs, first, std::min<size_t>(first + kBoundedPanels, w.num_panels), look_at);
      }
    });
  }

  // The same of the panels [first, last), at most kBoundedPanels. A panel that is left open waits for one round of others,
  // until what was asked for is there.
  template <class LookAt>
  void find_highest(const Matrices &w, const Inputs &inputs, size_t first, size_t last, const LookAt &look_at) {
    constexpr size_t kRound = 2 * kMostUnit;
    const size_t num_rows = step_.num_outputs, upper_most = strip_panels(kInt8Upper, num_rows, w.num_panels, 1);
    OpenPanels open(bounds_, highest_, num_rows, first);
    uint64_t asked = 0;
    size_t num_open = 0;
    for (size_t panel = first; panel < last || asked != 0; panel += kRound) {
      if (3 * num_open > kRound + panel - first) {  // bounds tell little here: all of the rest, as if there were none
        const size_t most = strip_panels(w.dtype, num_rows, w.num_panels, 1);
        if (panel < last) multiply({.up = {w}, .unit = kMostUnit, .highest = &highest_}, panel, last, most, inputs, num_rows);
        panel = last;
      }
      const size_t end = std::min(panel + kRound, last);
      if (panel < end)
        multiply({.up = {w.upper()}, .unit = kMostUnit, .open = &open}, panel, end, upper_most, inputs, num_rows);
      for (; asked != 0; asked &= asked - 1) look_at(first + static_cast<size_t>(__builtin_ctzll(asked)));
      asked = open.take();
      num_open += static_cast<size_t>(__builtin_popcountll(asked));
      open.learn();
    }
  }

  // One product shared among the threads; after(begin, end) when the panels [begin, end) of all rows are there.
  template <class After>
  void multiply_shared(const Product &product, const Inputs &inputs, size_t num_rows, const After &after) {
    const size_t num_panels = product.up.w.num_panels;
    const size_t most = strip_panels(product.up.w.dtype, num_rows, num_panels, 4 * threads_.size());
    const size_t strip = std::max(most, product.unit);
    threads_.run_pieces((num_panels + strip - 1) / strip, 1, [&](size_t begin, size_t end) {
      const size_t last = std::min(end * strip, num_panels);
      multiply(product, begin * strip, last, most, inputs, num_rows);
      after(begin * strip, last);
    });
  }
};

}  // namespace thaloom
