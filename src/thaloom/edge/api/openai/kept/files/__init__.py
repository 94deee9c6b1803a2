"""OpenAI's files: uploads that never stand in memory, and lists of what is kept."""
