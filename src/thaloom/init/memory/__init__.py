"""What fits, where, and who makes room."""
