"""Hugging Face transformers' `generate` on a batch of equally long prompts, bf16, in its own environment."""

import child


def main():
    settings = child.settings()
    import torch
    import transformers

    torch.set_num_threads(settings["threads"])
    model = transformers.AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.bfloat16)
    model.eval()

    @torch.inference_mode()
    def generate(prompts, new_tokens):
        ids = torch.tensor(prompts)
        done = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
            do_sample=False,
        )
        assert done.shape[1] == ids.shape[1] + new_tokens

    child.serve(f"{transformers.__version__} (torch {torch.__version__})", settings["vocabulary"], generate)


if __name__ == "__main__":
    main()
