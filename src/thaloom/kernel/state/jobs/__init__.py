"""Jobs: programs that are to run to their end. The wish, and what became of it."""
