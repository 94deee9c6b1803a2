"""A worker's process around the engine: its life, its socket, its weights."""
