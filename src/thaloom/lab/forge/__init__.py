"""AI-made parts, proved in simulation before they may run. Empty so far."""
