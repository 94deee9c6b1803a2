"""What a reaper is told: a file of words (kernel.sandbox.inside.words), one fact a line.

attempt  N                  its number
claim    PATH               made by the reaper, and by nobody twice: it says who keeps the program, and which that is
ended    PATH               how the program ended; there only once it has
lock     PATH               held as long as anything of the job is kept
log      PATH BYTES         its output, and how many bytes of it are kept in all
deadline SECONDS            from now on; none without
grace    SECONDS            between asking and killing
folder   PATH               where it starts, if no launcher sees to that
group    PATH               of a control group it lies in, one line each
command  WORD...            what is run; `walled` tells whether that is the launcher
walled   yes|no
"""

from __future__ import annotations

from thaloom.kernel.sandbox.inside.words import decode, encode

TYPE_CHECKING = False  # typing takes longer to import than all of this
if TYPE_CHECKING:
    from collections.abc import Sequence

ENVIRONMENT_FD = 3
"""Where a launcher finds the program's variables."""


class ReaperPlan:
    """The facts of one attempt."""

    def __init__(
        self,
        *,
        attempt: int,
        claim: str,
        ended: str,
        lock: str,
        log: str,
        log_bytes: int,
        grace_s: float,
        command: Sequence[str],
        walled: bool,
        deadline_s: float | None = None,
        folder: str | None = None,
        groups: Sequence[str] = (),
    ) -> None:
        self.attempt = attempt
        self.claim = claim
        self.ended = ended
        self.lock = lock
        self.log = log
        self.log_bytes = log_bytes
        self.grace_s = grace_s
        self.command = list(command)
        self.walled = walled
        self.deadline_s = deadline_s
        self.folder = folder
        self.groups = list(groups)

    def encode(self) -> bytes:
        lines: list[tuple[str, ...]] = [
            ("attempt", str(self.attempt)),
            ("claim", self.claim),
            ("ended", self.ended),
            ("lock", self.lock),
            ("log", self.log, str(self.log_bytes)),
            ("grace", repr(self.grace_s)),
            ("walled", "yes" if self.walled else "no"),
            *[("group", group) for group in self.groups],
        ]
        lines += [] if self.deadline_s is None else [("deadline", repr(self.deadline_s))]
        lines += [] if self.folder is None else [("folder", self.folder)]
        return encode([*lines, ("command", *self.command)])

    @classmethod
    def decode(cls, data: bytes) -> ReaperPlan:
        """Raises KeyError or ValueError for what is no plan."""
        lines = decode(data)
        facts = {line[0]: line[1:] for line in lines}
        return cls(
            attempt=int(facts["attempt"][0]),
            claim=facts["claim"][0],
            ended=facts["ended"][0],
            lock=facts["lock"][0],
            log=facts["log"][0],
            log_bytes=int(facts["log"][1]),
            grace_s=float(facts["grace"][0]),
            command=facts["command"],
            walled=facts["walled"][0] == "yes",
            deadline_s=float(facts["deadline"][0]) if "deadline" in facts else None,
            folder=facts["folder"][0] if "folder" in facts else None,
            groups=[line[1] for line in lines if line[0] == "group"],
        )
