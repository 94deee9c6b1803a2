"""OpenVINO GenAI's continuous batching pipeline, in its own environment. No prefix caching, no speculation."""

import child


def main():
    settings = child.settings()
    import numpy
    import openvino
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = 1
    scheduler.max_num_seqs = settings["batch"]
    scheduler.max_num_batched_tokens = settings["step_tokens"]
    scheduler.enable_prefix_caching = False
    scheduler.dynamic_split_fuse = True
    pipeline = openvino_genai.ContinuousBatchingPipeline(
        settings["model"],
        scheduler,
        "CPU",
        {"INFERENCE_NUM_THREADS": settings["threads"]},
    )

    def generate(prompts, new_tokens):
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = new_tokens
        config.ignore_eos = True
        config.do_sample = False
        tensors = [openvino.Tensor(numpy.array([ids], dtype=numpy.int64)) for ids in prompts]
        done = pipeline.generate(tensors, [config] * len(prompts))
        assert all(len(result.m_generation_ids[0]) == new_tokens for result in done)

    child.serve(openvino_genai.__version__, settings["vocabulary"], generate)


if __name__ == "__main__":
    main()
