"""The tuner: ask and tell, pure. Empty so far; the floors already know the room."""
