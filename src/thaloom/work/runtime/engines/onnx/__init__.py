"""ONNX Runtime in a worker (extra `onnx`): images, audio, detection, tables; requests joined into batches."""
