"""Workloads, strangers to each other: inference, training, federation."""
