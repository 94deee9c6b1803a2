"""ONNX Runtime in a worker (extra `onnx`): images, audio, detection, tables; requests joined into batches."""

from thaloom.base.units import MIB

PASS_BYTES = 256 * MIB
"""Booked for what lies between the operators of one pass: an estimate. A worker seen to hold more is booked as more."""
