"""OpenVINO's logits after each token of each window, from the weights its pipeline runs, in its plain inference.

    openvino_logits.py MODEL TOKENS WINDOW THREADS OUT

TOKENS holds int32 ids, WINDOW of them for each window; OUT becomes float32 (windows * WINDOW, vocabulary).
"""

import sys
from pathlib import Path

import numpy
import openvino


def main():
    model, tokens, window, threads, out = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    compiled = openvino.Core().compile_model(
        str(Path(model) / "openvino_model.xml"), "CPU", {"INFERENCE_NUM_THREADS": threads}
    )
    request = compiled.create_infer_request()
    places = numpy.arange(window, dtype=numpy.int64)[None]
    with open(out, "wb") as file:  # noqa: PTH123 - a path of the command line
        for ids in numpy.fromfile(tokens, numpy.int32).reshape(-1, window).astype(numpy.int64):
            request.reset_state()
            wanted = {
                "input_ids": ids[None],
                "attention_mask": numpy.ones_like(places),
                "position_ids": places,
                "beam_idx": numpy.zeros(1, numpy.int32),
            }
            found = request.infer({name.any_name: wanted[name.any_name] for name in compiled.inputs})
            file.write(numpy.ascontiguousarray(found["logits"][0], numpy.float32).tobytes())


if __name__ == "__main__":
    main()
