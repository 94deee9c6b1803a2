"""Between text and tokens: what the door and the worker both need of a model's texts."""
