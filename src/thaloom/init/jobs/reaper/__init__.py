"""The parent of a job's program. It imports next to nothing, for there is one for each job that runs."""
