// The C functions of thaloom_cpu.h: check who calls, then hand over. The whole library is this one translation unit.
#include "thaloom_cpu.h"

#include <cstdlib>
#include <new>

#include "executable.h"
#include "pack.h"

#ifndef THALOOM_VARIANT
#define THALOOM_VARIANT "generic"
#endif

struct thaloom_executable : thaloom::Executable {};

namespace {

using thaloom::refuse;

// Not by `new`: nothing of the C++ library is needed at run time, so nothing of it is linked.
thaloom_executable *make_executable() {
  void *place = std::aligned_alloc(alignof(thaloom_executable), sizeof(thaloom_executable));
  return place == nullptr ? nullptr : ::new (place) thaloom_executable;
}

void end_executable(thaloom_executable *executable) {
  executable->~thaloom_executable();
  std::free(executable);
}

int32_t refuse_caller(thaloom_message *message) {
  return refuse(message, THALOOM_WRONG_CALLER,
                "another thread is inside this executable, or it was made before this process was forked");
}

}  // namespace

uint32_t thaloom_cpu_abi(void) { return THALOOM_CPU_ABI; }

uint32_t thaloom_cpu_struct_bytes(uint32_t which) {
  constexpr size_t kSizes[] = {sizeof(thaloom_weight), sizeof(thaloom_instruction), sizeof(thaloom_program),
                               sizeof(thaloom_plan),   sizeof(thaloom_step),        sizeof(thaloom_draw),
                               sizeof(thaloom_drawn),  sizeof(thaloom_draws),       sizeof(thaloom_message),
                               sizeof(thaloom_source)};
  return which < std::size(kSizes) ? static_cast<uint32_t>(kSizes[which]) : 0;
}

const char *thaloom_cpu_variant(void) { return THALOOM_VARIANT; }

uint64_t thaloom_cpu_packed_bytes(uint32_t dtype, uint32_t count, uint32_t rows, uint32_t columns) {
  return thaloom::packed_bytes(dtype, count, rows, columns);
}

int32_t thaloom_cpu_pack(const thaloom_weight *target, const thaloom_source *source, thaloom_message *message) {
  if (target == nullptr || source == nullptr || target->data == nullptr || source->data == nullptr)
    return refuse(message, THALOOM_BAD_PROGRAM, "nothing to pack");
  const thaloom_weight &w = *target;
  const uint64_t num_bytes = thaloom::packed_bytes(w.dtype, w.count, w.rows, w.columns);
  const bool is_whole = source->dtype == THALOOM_SOURCE_I8;
  const uint64_t number_bytes = is_whole ? 1 : source->dtype == THALOOM_SOURCE_F32 ? 4 : 2;
  const uint64_t num_rows = uint64_t{w.count} * w.rows;
  const uint64_t num_scales = !is_whole ? 0 : w.dtype == THALOOM_INT8 ? num_rows : num_rows * (w.columns / 32);
  const bool is_bf16 = w.dtype == THALOOM_BF16 || w.dtype == THALOOM_BF16_WIDE;
  const bool is_kept = is_whole  ? thaloom::is_whole(w.dtype)
                       : is_bf16 ? source->dtype == THALOOM_SOURCE_BF16
                                 : source->dtype < THALOOM_SOURCE_I8;
  if (num_bytes == 0 || w.num_bytes < num_bytes || reinterpret_cast<uintptr_t>(w.data) % 64 || !is_kept ||
      source->num_bytes != num_rows * w.columns * number_bytes || source->num_scales != num_scales ||
      (source->scales != nullptr) != is_whole || !source->num_threads || source->num_threads > thaloom::kMostThreads)
    return refuse(message, THALOOM_BAD_PROGRAM, "%u x %u x %u values do not fit what they come from or go to", w.count,
                  w.rows, w.columns);
  const int32_t status = thaloom::pack_panels(w, *source, source->num_threads);
  if (status == THALOOM_NO_MEMORY) return refuse(message, status, "no memory to pack a matrix of %u columns", w.columns);
  if (status != THALOOM_OK) return refuse(message, status, "a number is not finite, or too large to be made a whole one");
  return THALOOM_OK;
}

int32_t thaloom_cpu_plan(const thaloom_program *program, thaloom_plan *plan, thaloom_message *message) {
  thaloom::Program read;
  if (plan == nullptr) return refuse(message, THALOOM_BAD_PROGRAM, "nowhere to write the plan");
  if (int32_t status = thaloom::ProgramReader(read, message).read(program)) return status;
  *plan = {.scratch_bytes = read.scratch_floats * sizeof(float),
           .block_bytes = read.block_bytes,
           .result_width = read.result_width,
           .result_stride = read.result_stride};
  return THALOOM_OK;
}

int32_t thaloom_cpu_create(const thaloom_program *program, void *scratch, uint64_t scratch_bytes,
                           thaloom_executable **executable, thaloom_message *message) {
  if (executable == nullptr) return refuse(message, THALOOM_BAD_PROGRAM, "nowhere to put the executable");
  thaloom_executable *made = make_executable();
  if (made == nullptr) return refuse(message, THALOOM_NO_MEMORY, "no memory for an executable");
  int32_t status = thaloom::ProgramReader(made->program, message).read(program);
  if (status == THALOOM_OK && (scratch_bytes < made->program.scratch_floats * sizeof(float) || scratch == nullptr ||
                               reinterpret_cast<uintptr_t>(scratch) % 64))
    status = refuse(message, THALOOM_BAD_PROGRAM, "scratch is missing, too small or not aligned to 64 bytes");
  if (status == THALOOM_OK) status = made->prepare(static_cast<float *>(scratch), message);
  if (status == THALOOM_OK) *executable = made;
  else end_executable(made);
  return status;
}

int32_t thaloom_cpu_bind_pool(thaloom_executable *executable, void *pool, uint64_t pool_bytes, uint32_t num_blocks,
                              thaloom_message *message) {
  if (executable == nullptr) return refuse(message, THALOOM_BAD_STEP, "no executable");
  const thaloom::Executable::Turnstile turnstile(*executable);
  if (!turnstile.is_inside) return refuse_caller(message);
  return executable->bind(static_cast<char *>(pool), pool_bytes, num_blocks, message);
}

int32_t thaloom_cpu_step(thaloom_executable *executable, const thaloom_step *step, thaloom_message *message) {
  if (executable == nullptr || step == nullptr) return refuse(message, THALOOM_BAD_STEP, "no executable or no step");
  const thaloom::Executable::Turnstile turnstile(*executable);
  if (!turnstile.is_inside) return refuse_caller(message);
  return executable->run(*step, message);
}

int32_t thaloom_cpu_draw(thaloom_executable *executable, const thaloom_draws *draws, thaloom_message *message) {
  if (executable == nullptr || draws == nullptr) return refuse(message, THALOOM_BAD_STEP, "no executable or no draws");
  const thaloom::Executable::Turnstile turnstile(*executable);
  if (!turnstile.is_inside) return refuse_caller(message);
  return executable->draw(*draws, message);
}

int32_t thaloom_cpu_copy_block(thaloom_executable *executable, uint32_t source, uint32_t target,
                               thaloom_message *message) {
  if (executable == nullptr) return refuse(message, THALOOM_BAD_STEP, "no executable");
  const thaloom::Executable::Turnstile turnstile(*executable);
  if (!turnstile.is_inside) return refuse_caller(message);
  return executable->copy_block(source, target, message);
}

void thaloom_cpu_destroy(thaloom_executable *executable) {
  if (executable != nullptr) end_executable(executable);
}
