"""OpenAI's batches: requests out of a file, answered when nobody waits. Why the door does it: decision 0014."""
