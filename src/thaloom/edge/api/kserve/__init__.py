"""The Open Inference Protocol (KServe v2) for models that are no language models."""
