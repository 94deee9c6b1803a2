"""What a process of ours may touch, and the groups it runs in."""
