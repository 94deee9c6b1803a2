"""The door: the only floor that knows the public protocols."""
