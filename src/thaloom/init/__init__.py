"""Process one: the only floor that knows everybody."""
