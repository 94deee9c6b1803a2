/* The border between the CPU driver's Python and its native part: plain C, no ownership crosses it.
 *
 * A program is handed over once, as arrays; after that one call runs one whole step. Everything that comes in is
 * checked before anything is written, so a malformed program or step gives an error code and a message, never a
 * read or a write out of bounds. What cannot be checked here (that a pointer really has the bytes stated beside it)
 * is the caller's promise. Nothing throws, and a step allocates nothing.
 *
 * Order of calls: plan (how much scratch) -> create -> bind_pool -> step, draw, copy_block, ... -> destroy. The weights,
 * the scratch and the pool stay the caller's and must outlive the handle.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Grows with every change of a struct or of a meaning below. native.py holds the same number. */
#define THALOOM_CPU_ABI 11u

enum thaloom_status {
  THALOOM_OK = 0,
  THALOOM_BAD_PROGRAM = 1, /* the program breaks the contract; nothing was made */
  THALOOM_BAD_STEP = 2,    /* the step breaks the contract; nothing was written */
  THALOOM_NO_MEMORY = 3,
  THALOOM_NO_THREADS = 4,
  THALOOM_WRONG_CALLER = 5, /* another thread is inside, or the handle was made before a fork */
  THALOOM_BAD_NUMBERS = 6   /* a matrix holds numbers that cannot be what they are to become */
};

enum thaloom_dtype {
  THALOOM_F32 = 0,
  THALOOM_BF16 = 1,
  /* Of matrices only, whose columns are then whole groups of 32; native/cpu/whole.h says how they lie. */
  THALOOM_INT8 = 2,        /* one f32 scale a row */
  THALOOM_INT8_GROUPS = 3, /* one f16 scale for 32 columns */
  THALOOM_INT4 = 4,        /* likewise */
  /* Of keys and values only, as f32 and bf16 can be; native/cpu/kv_store.h. */
  THALOOM_I8 = 5,
  THALOOM_F16 = 6,
  /* Of matrices only: bf16 whose inputs stay f32 on every build, where rounding them would cost too much. */
  THALOOM_BF16_WIDE = 7,
  /* Of one matrix only: INT8_GROUPS with the upper six bits of its numbers apart from the lower two, so that the
   * likeliest token of few rows is found without reading all of them; native/cpu/split.h. */
  THALOOM_INT8_SPLIT = 8
};

/* A vector is `columns` float32, padded with zeros to a multiple of 16. Matrices are in panels, made by pack(). */
enum thaloom_weight_kind { THALOOM_VECTOR = 0, THALOOM_MATRICES = 1 };

/* Fields of an instruction by operator; what is not named is ignored. See hal/ops.py for the meanings. */
enum thaloom_op {
  THALOOM_EMBEDDING = 0, /* weights: table. reals: scale */
  THALOOM_RMSNORM = 1,   /* slots: x. weights: norm. numbers: group (0: whole row). reals: eps, offset */
  THALOOM_LINEAR = 2,    /* slots: x. weights: matrix, bias or -1 */
  THALOOM_ROPE = 3,      /* slots: x. numbers: head_size, rotary_size, interleaved. reals: factor. table: frequencies */
  THALOOM_ATTENTION = 4, /* slots: q, k, v or -1 (values are the keys' first columns). numbers: num_heads,
                            num_kv_heads, head_size, value_size, causal, window. reals: scale, softcap. table: alibi */
  THALOOM_GATED = 5,     /* slots: gate, up. numbers: activation */
  THALOOM_ADD = 6,       /* slots: a, b */
  THALOOM_POOL = 7,      /* slots: x. numbers: normalise */
  THALOOM_LOGITS = 8,    /* slots: x. weights: matrix. reals: scale, softcap */
  THALOOM_MOE = 9,       /* slots: x. weights: router, gate, up, down. numbers: top_k, normalise, activation.
                            reals: scale */
  THALOOM_LORA = 10,     /* slots: x, y. weights: a, b. numbers: adapter. reals: scale */
  THALOOM_NUM_OPS = 11
};

enum thaloom_activation { THALOOM_SILU = 0, THALOOM_GELU = 1, THALOOM_GELU_TANH = 2, THALOOM_RELU = 3 };

struct thaloom_weight {
  const void *data; /* aligned to 64 bytes */
  uint64_t num_bytes;
  uint32_t kind;
  uint32_t dtype;
  uint32_t count;   /* matrices in the stack (experts); 1 for all else */
  uint32_t rows;    /* output features; 1 for a vector */
  uint32_t columns; /* input features; the length of a vector */
  uint32_t reserved;
};

enum thaloom_source_dtype {
  THALOOM_SOURCE_F32 = 0,
  THALOOM_SOURCE_BF16 = 1,
  THALOOM_SOURCE_F16 = 2,
  THALOOM_SOURCE_I8 = 3 /* whole numbers, with scales */
};

/* Matrices as they come, row by row. */
struct thaloom_source {
  const void *data;
  uint64_t num_bytes;
  const float *scales; /* of whole numbers: one a row, or one for 32 columns, as the target has them; else null */
  uint64_t num_scales;
  uint32_t dtype;
  uint32_t num_threads; /* that may pack it */
};

struct thaloom_instruction {
  uint32_t op;
  int32_t out;
  int32_t slots[3];
  int32_t weights[4];
  uint32_t numbers[7];
  uint32_t table; /* first of `table_length` values in thaloom_program.tables */
  uint32_t table_length;
  double reals[3];
};

struct thaloom_program {
  uint32_t abi;
  uint32_t struct_bytes; /* sizeof(struct thaloom_program) as the caller knows it */
  uint32_t num_instructions;
  uint32_t num_slots;
  uint32_t num_weights;
  uint32_t num_table_values;
  const struct thaloom_instruction *instructions;
  const uint32_t *widths; /* columns of each slot */
  const struct thaloom_weight *weights;
  const double *tables;
  uint32_t kv_dtype;
  uint32_t num_threads;
  uint32_t max_rows;
  uint32_t max_sequences;
  uint32_t max_context;
  uint32_t reserved;
};

struct thaloom_plan {
  uint64_t scratch_bytes; /* to be handed to create, aligned to 64 bytes */
  uint64_t block_bytes;   /* keys and values of 16 tokens over all layers */
  uint32_t result_width;
  uint32_t result_stride; /* floats from one row of a result to the next */
};

struct thaloom_step {
  const int32_t *tokens;
  const int32_t *positions;
  const int32_t *sequences;
  const int32_t *block_tables; /* num_sequences x table_columns */
  const int32_t *outputs;
  const int32_t *adapters; /* or null: none */
  uint32_t num_rows;
  uint32_t num_sequences;
  uint32_t table_columns;
  uint32_t num_outputs;
  float *result; /* num_outputs x result_stride, aligned to 64 bytes; not touched by a greedy step, and may be null */
  uint64_t result_values;
  uint32_t gives_states; /* 1: what the logits would be made of, instead of them; rows of 16 floats and more */
  uint32_t is_greedy;    /* 1: no logits either; until the next step, draws are greedy ones of these rows alone */
};

/* What is done to the logit of one token before a draw: x > 0 ? x / scale : x * scale, then + add. */
struct thaloom_edit {
  int32_t token;
  float scale;
  float add;
};

#define THALOOM_MAX_FURTHER 6 /* even: what follows in thaloom_drawn stays aligned */

/* How one of the rows of logits becomes a token. See hal/draws.py for the meanings. */
struct thaloom_draw {
  double temperature; /* 0: greedy */
  double top_p;
  double min_p;
  uint64_t uniform_steps; /* below 2^53 */
  uint64_t further_steps[THALOOM_MAX_FURTHER]; /* as uniform_steps, each for one more token */
  uint32_t top_k;         /* 0: all */
  int32_t num_top;        /* likeliest tokens to report; -1: no logarithms of probabilities at all */
  const struct thaloom_edit *edits;
  const uint32_t *allowed; /* a bit for each token, the lowest first: whether it may be drawn; null: all may */
  uint32_t num_edits;
  uint32_t allowed_words; /* as many as hold a bit for each token, or 0 */
  uint32_t row;           /* of thaloom_draws.logits; one row may be drawn from several times */
  uint32_t num_further;   /* at most THALOOM_MAX_FURTHER */
};

struct thaloom_drawn {
  int32_t token; /* -1 where a logit is not finite, or no token is allowed */
  uint32_t num_not_finite;
  float highest;    /* logit */
  uint32_t num_top; /* ids written */
  uint64_t total;   /* all weights at temperature 1, in units of 2^-44; 0 if nobody asked */
  int32_t further[THALOOM_MAX_FURTHER]; /* at most num_further, all different; then -1 */
};

struct thaloom_draws {
  const float *logits; /* num_rows x result_stride, as a step wrote them; not read after a greedy step */
  uint64_t logits_values;
  const struct thaloom_draw *wishes;
  struct thaloom_drawn *drawn;
  int32_t *top; /* num_draws x top_columns, the likeliest first; may be null if top_columns is 0 */
  uint32_t num_rows;
  uint32_t num_draws;
  uint32_t top_columns;
  uint32_t reserved;
};

/* Where a call that fails says why: zero-terminated text. */
struct thaloom_message {
  char text[256];
};

struct thaloom_executable;

#define THALOOM_API __attribute__((visibility("default")))

THALOOM_API uint32_t thaloom_cpu_abi(void);
/* Sizes of the structs above, in their order, for the handshake; 0 for an unknown number. */
THALOOM_API uint32_t thaloom_cpu_struct_bytes(uint32_t which);
/* The instruction set this file was compiled for: "x86_64_v4" ... */
THALOOM_API const char *thaloom_cpu_variant(void);

/* Bytes of a stack of matrices in panels; 0 if there can be no such stack. */
THALOOM_API uint64_t thaloom_cpu_packed_bytes(uint32_t dtype, uint32_t count, uint32_t rows, uint32_t columns);
/* Put `source` (count x rows x columns) into panels at `target->data`: floats as they are or widened, or made whole
 * numbers as hal/quantise.py says; whole numbers as they are. Numbers outside the range of the target's are not
 * looked for. THALOOM_BAD_NUMBERS: one that is not finite, or too large for a scale in f16. */
THALOOM_API int32_t thaloom_cpu_pack(const struct thaloom_weight *target, const struct thaloom_source *source,
                                     struct thaloom_message *message);

THALOOM_API int32_t thaloom_cpu_plan(const struct thaloom_program *program, struct thaloom_plan *plan,
                                     struct thaloom_message *message);
THALOOM_API int32_t thaloom_cpu_create(const struct thaloom_program *program, void *scratch, uint64_t scratch_bytes,
                                       struct thaloom_executable **executable, struct thaloom_message *message);
THALOOM_API int32_t thaloom_cpu_bind_pool(struct thaloom_executable *executable, void *pool, uint64_t pool_bytes,
                                          uint32_t num_blocks, struct thaloom_message *message);
THALOOM_API int32_t thaloom_cpu_step(struct thaloom_executable *executable, const struct thaloom_step *step,
                                     struct thaloom_message *message);
/* Choose tokens from rows of logits, of a program that gives some. Allocates nothing. */
THALOOM_API int32_t thaloom_cpu_draw(struct thaloom_executable *executable, const struct thaloom_draws *draws,
                                     struct thaloom_message *message);
THALOOM_API int32_t thaloom_cpu_copy_block(struct thaloom_executable *executable, uint32_t source, uint32_t target,
                                           struct thaloom_message *message);
/* Ends the threads and frees the handle. Null is allowed. */
THALOOM_API void thaloom_cpu_destroy(struct thaloom_executable *executable);

#ifdef __cplusplus
}
#endif
