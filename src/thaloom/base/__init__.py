"""Ground floor: facts every room shares. Imports nothing of ours."""
