"""llama.cpp's own converter with one thing changed: a byte-level BPE it has never seen is split like Qwen2's.

    convert_gguf.py SOURCE_FOLDER MODEL_FOLDER [the converter's own options]

How text is cut into words decides nothing here: prompts come as token ids.
"""

import runpy
import sys
from pathlib import Path


def main():
    source = Path(sys.argv.pop(1))
    sys.path.insert(0, str(source))
    try:
        from conversion import base as converter  # llama.cpp since it was cut into modules
    except ImportError:
        patched = (source / "convert_hf_to_gguf.py").read_text()
        unknown = 'raise NotImplementedError("BPE pre-tokenizer was not recognized - update get_vocab_base_pre()")'
        code = compile(patched.replace(unknown, 'res = "qwen2"'), str(source / "convert_hf_to_gguf.py"), "exec")
        exec(code, {"__name__": "__main__", "__file__": str(source / "convert_hf_to_gguf.py")})
        return
    known = converter.TextModel.get_vocab_base_pre

    def get_vocab_base_pre(self, tokenizer):
        try:
            return known(self, tokenizer)
        except NotImplementedError:
            return "qwen2"

    converter.TextModel.get_vocab_base_pre = get_vocab_base_pre
    runpy.run_path(str(source / "convert_hf_to_gguf.py"), run_name="__main__")


if __name__ == "__main__":
    main()
