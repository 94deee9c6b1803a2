"""Who runs where and when, and what goes into a step. Pure: a frozen snapshot in, a plan out."""
