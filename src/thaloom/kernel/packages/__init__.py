"""Software environments, images and presets. Empty so far; the floors already know the room."""
