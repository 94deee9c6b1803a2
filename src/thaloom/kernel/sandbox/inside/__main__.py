"""`python -I -S .../inside/__main__.py PLAN -- COMMAND...`: build the walls that PLAN lists, then become COMMAND.

The process id stays, so whoever started it keeps the identity it knows. If a wall cannot be built, nothing runs: the
reason lies where PLAN says, as an error of base.errors, and the exit status is 71 (EX_OSERR).
"""

import sys

sys.path.insert(0, __file__.rsplit("/", 5)[0])  # -I keeps even our own package out

from thaloom.kernel.sandbox.inside.steps import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
