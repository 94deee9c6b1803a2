// llama.cpp's own logits: reads windows of token ids and writes what the model predicts after each of them.
//
//   llama_logits MODEL.gguf TOKENS WINDOW THREADS OUT
//
// TOKENS holds int32 ids, WINDOW of them for each window; OUT becomes float32 (tokens, vocabulary). Each window is read
// from an empty cache in one go, with the settings that its benchmark is run with (flash attention, f16 keys and values).

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "llama.h"

int main(int argc, char** argv) {
  if (argc != 6) return fprintf(stderr, "usage: %s MODEL TOKENS WINDOW THREADS OUT\n", argv[0]), 2;
  const int window = atoi(argv[3]), threads = atoi(argv[4]);
  FILE* in = fopen(argv[2], "rb");
  FILE* out = fopen(argv[5], "wb");
  if (!in || !out || window < 1) return perror("open"), 1;

  llama_backend_init();
  llama_model* model = llama_model_load_from_file(argv[1], llama_model_default_params());
  if (!model) return 1;
  llama_context_params parameters = llama_context_default_params();
  parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = window;
  parameters.n_threads = parameters.n_threads_batch = threads;
  parameters.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
  llama_context* context = llama_init_from_model(model, parameters);
  if (!context) return 1;
  const size_t vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));

  std::vector<llama_token> tokens(window);
  llama_batch batch = llama_batch_init(window, 0, 1);
  while (fread(tokens.data(), sizeof(llama_token), window, in) == static_cast<size_t>(window)) {
    llama_memory_clear(llama_get_memory(context), true);
    batch.n_tokens = window;
    for (int i = 0; i < window; ++i) {
      batch.token[i] = tokens[i];
      batch.pos[i] = i;
      batch.n_seq_id[i] = 1;
      batch.seq_id[i][0] = 0;
      batch.logits[i] = 1;
    }
    if (llama_decode(context, batch)) return fprintf(stderr, "decode failed\n"), 1;
    for (int i = 0; i < window; ++i) fwrite(llama_get_logits_ith(context, i), sizeof(float), vocabulary, out);
  }
  fclose(out);
  return 0;
}
