"""What happens between the fork and the program: run with `python -I -S`, so it imports next to nothing."""
