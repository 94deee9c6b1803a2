"""The other end of engines.ChildSession, for scripts that run in a peer's own environment: standard library only.

import child
settings = child.settings()          # standard output is ours alone from here on
...load...
child.serve("1.2.3", generate)       # generate(prompts, new_tokens): until every prompt has that many tokens; may
                                     # give (tokens, seconds) of what came once every prompt had its first
"""

import ctypes
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

_ANSWERS = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # whatever a library prints goes to the log


PR_SET_PDEATHSIG = 1  # prctl(2)


def settings():
    """What the harness says. From here on this process dies with it, however it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:
        sys.exit("the harness has ended")
    same_share_as(os.getppid())
    return json.loads(sys.argv[1])


def same_share_as(process_id):
    """A process group of its own is a scheduling group of its own (sched(7), autogroup), with a nice value of its own:
    take the harness's, so that engines with and without such a group are given the same share of the processors."""
    try:
        share = Path(f"/proc/{process_id}/autogroup").read_text().split()[-1]
        Path("/proc/self/autogroup").write_text(share)
    except (OSError, IndexError):
        pass  # a kernel without such groups, or not ours to change


def answer(**fields):
    _ANSWERS.write(json.dumps(fields) + "\n")


def random_prompts(batch, length, vocabulary):
    """Fresh token ids for each request, so that nobody's prefix cache can help."""
    return [[random.randrange(3, vocabulary) for _ in range(length)] for _ in range(batch)]


def serve(version, vocabulary, generate):
    """Warm up once, say who we are, then answer questions until standard input ends."""
    generate(random_prompts(2, 16, vocabulary), 3)
    answer(version=version)
    for line in sys.stdin:
        question = json.loads(line)
        prompts = random_prompts(question["batch"], question["prompt"], vocabulary)
        try:
            begin = time.perf_counter()
            tokens, seconds = generate(prompts, question["new"]) or (None, None)
            answer(seconds=time.perf_counter() - begin, decoded=tokens, decoding_s=seconds)
        except Exception as error:  # noqa: BLE001 - whatever the peer raised: its table cell says so
            answer(error=f"{type(error).__name__}: {error}")
