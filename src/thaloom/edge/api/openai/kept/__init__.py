"""What the door keeps for its clients, and works on while nobody waits: responses, files, batches."""
