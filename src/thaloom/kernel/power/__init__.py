"""The energy governor: readings in, wishes out, pure. Empty so far; the floors already know the room."""
