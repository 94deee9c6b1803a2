"""What a request cost, and what the door measures."""
