"""The kinds of routes there are, whatever protocol speaks through them."""
