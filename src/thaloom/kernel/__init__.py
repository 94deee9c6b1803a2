"""Resources and decisions: rooms side by side, over two that remember (state) and vouch (trust)."""
