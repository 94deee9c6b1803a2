"""Programs without privileges: they enter by the door like anyone else."""
