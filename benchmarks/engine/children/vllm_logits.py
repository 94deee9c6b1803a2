"""vLLM's own log-probabilities of every token of the vocabulary, after each token of each window.

    vllm_logits.py MODEL TOKENS WINDOW OUT

TOKENS holds int32 ids, WINDOW of them for each window; OUT becomes float32 (windows * (WINDOW - 1), vocabulary): vLLM
tells what it thought of the tokens of a prompt, so not what comes after its last.
"""

import json
import sys
from pathlib import Path

import numpy


def main():
    model, tokens, window, out = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    from vllm import LLM, SamplingParams

    vocabulary = json.loads((Path(model) / "config.json").read_text())["vocab_size"]
    llm = LLM(
        model=model,
        dtype="bfloat16",
        max_model_len=window + 16,
        max_num_seqs=1,
        max_logprobs=vocabulary,
        enable_prefix_caching=False,
        enforce_eager=True,
        disable_log_stats=True,
    )
    sampling = SamplingParams(
        temperature=0.0, max_tokens=1, ignore_eos=True, detokenize=False, prompt_logprobs=vocabulary
    )
    windows = numpy.fromfile(tokens, numpy.int32).reshape(-1, window)
    with open(out, "wb") as file:  # noqa: PTH123 - a path of the command line
        for ids in windows.tolist():
            (done,) = llm.generate([{"prompt_token_ids": ids}], sampling, use_tqdm=False)
            for told in done.prompt_logprobs[1:]:
                row = numpy.full(vocabulary, -numpy.inf, numpy.float32)
                row[list(told.keys())] = [one.logprob for one in told.values()]
                file.write(row.tobytes())


if __name__ == "__main__":
    main()
