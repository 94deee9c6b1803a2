"""`python -I -S .../reaper/__main__.py PLAN ENVIRONMENT`: run what PLAN says, keep it, and write down how it ended.

ENVIRONMENT is the number of an open descriptor from which the program's variables are read: they are neither in a file
nor in this process's own environment, where a variable like LD_PRELOAD would change what keeps the walls.
"""

import sys

sys.path.insert(0, __file__.rsplit("/", 5)[0])  # -I keeps even our own package out

from thaloom.init.jobs.reaper.reaping import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
