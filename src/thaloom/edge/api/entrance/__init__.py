"""What every request passes first, whatever it is for: the connection, the guard, who asks, and what is noted of it."""
