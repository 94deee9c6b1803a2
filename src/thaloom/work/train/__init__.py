"""The training supervisor. Empty so far; the floors already know the room."""
