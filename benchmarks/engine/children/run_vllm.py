"""vLLM in-process, in its own environment. Prefix caching off, compilation and scheduling as it comes."""

import child


def main():
    settings = child.settings()
    import vllm
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=settings["model"],
        dtype="bfloat16",
        max_model_len=settings["context"],
        max_num_seqs=settings["batch"],
        max_num_batched_tokens=settings["step_tokens"],
        enable_prefix_caching=False,
        disable_log_stats=True,
        seed=0,
    )

    def generate(prompts, new_tokens):
        sampling = SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True, detokenize=False)
        done = llm.generate([{"prompt_token_ids": ids} for ids in prompts], sampling, use_tqdm=False)
        assert all(len(output.outputs[0].token_ids) == new_tokens for output in done)

    child.serve(vllm.__version__, settings["vocabulary"], generate)


if __name__ == "__main__":
    main()
