"""The control API: on the daemon's socket, and handed on by the door."""
