"""Server side of the public protocols."""
