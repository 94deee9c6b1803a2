"""One folder a family of hardware. A driver never imports another, and nobody imports one by name."""
