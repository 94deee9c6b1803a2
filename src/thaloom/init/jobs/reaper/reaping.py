"""Keeping one program: started once, its output kept within a bound, its end written down, nothing of it left.

The order at the start is what makes a second start harmless: the lock (held by whoever keeps the job), the claim (made
once for each attempt, flushed), then the program, which is let go only when its identity is in the claim. A claim
without a program means that nothing ever ran; one with a program, without an end and without a holder of the lock, that
the reaper was killed. The program ends with its reaper (the launcher's step `with_parent`; without walls the daemon's
sweep).
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` brings enum along
import fcntl
import os
import select
import time

from thaloom.init.jobs.reaper.family import Family
from thaloom.init.jobs.reaper.log import BoundedLog
from thaloom.init.jobs.reaper.plan import ENVIRONMENT_FD, ReaperPlan
from thaloom.kernel.sandbox.inside import kernel_calls as kernel
from thaloom.kernel.sandbox.inside.words import decode

NOT_OURS = 75
"""Somebody else keeps the job, or this attempt was made already (EX_TEMPFAIL)."""
PR_SET_CHILD_SUBREAPER = 36
END_BYTES = 1024
"""Written when it starts, so that a full disk cannot keep the end from being written down."""
CLEARING_S = 10.0
"""How long what is killed may take to go. What hangs in the kernel beyond that is left to the daemon."""
_BLOCK_BYTES = 64 << 10
_LONGEST_WAIT_S = 60.0


def main(plan_path: str, environment: int) -> int:
    _signal.pthread_sigmask(_signal.SIG_BLOCK, {_signal.SIGTERM})  # until there is somebody to pass it on to
    for number in (_signal.SIGHUP, _signal.SIGINT, _signal.SIGPIPE):
        _signal.signal(number, _signal.SIG_IGN)
    with open(plan_path, "rb") as file:
        plan = ReaperPlan.decode(file.read())
    lock = _take_lock(plan.lock)
    claim = None if lock is None else _make_claim(plan.claim)
    if claim is None:
        return NOT_OURS
    Reaper(plan, environment, claim).run()
    return 0


def _take_lock(path: str) -> int | None:
    """Kept until this process ends, however it does."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.close(descriptor)
        return None
    return descriptor


def _make_claim(path: str) -> int | None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return None
    _write_line(descriptor, "reaper", os.getpid())
    _flush_folder(path)
    return descriptor


class Reaper:
    def __init__(self, plan: ReaperPlan, environment: int, claim: int) -> None:
        self._plan = plan
        self._environment = environment
        self._claim = claim
        self._log = BoundedLog(plan.log, plan.log_bytes)
        self._family = Family(plan.groups)
        self._by: str | None = None
        """Who asked the program to end, if anybody did."""
        self._kill_at: float | None = None
        self._status: int | None = None

    def run(self) -> None:
        kernel.prctl(PR_SET_CHILD_SUBREAPER, 1)
        awake, alarm = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        _signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
        _signal.signal(_signal.SIGCHLD, _nothing)
        _signal.signal(_signal.SIGTERM, lambda *_: self._ask("stopped"))
        end = self._prepare_end()
        output = self._start()
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, {_signal.SIGTERM})
        began = time.monotonic()
        deadline = None if self._plan.deadline_s is None else began + self._plan.deadline_s
        poll = select.poll()
        poll.register(awake, select.POLLIN)
        poll.register(output, select.POLLIN)
        speaking = True
        while self._status is None:
            poll.poll(self._wait_ms(deadline))
            _empty(awake)
            if speaking and not self._pump(output):
                poll.unregister(output)
                speaking = False
            self._reap()
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                self._ask("deadline")
            if self._kill_at is not None and now >= self._kill_at:
                self._family.kill()
                self._kill_at = now + 1.0  # what was forked meanwhile
        self._clear_away(output)
        self._write_end(end)

    def _start(self) -> int:
        """Returns where its output is read."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        gate, opener = os.pipe2(os.O_CLOEXEC)
        self._program = os.fork()
        if self._program == 0:
            try:
                os.close(opener)
                os.read(gate, 1)
                self._become(writing)
            finally:
                os._exit(127)
        _write_line(self._claim, "program", self._program)
        os.write(opener, b"1")
        for descriptor in (writing, gate, opener, self._environment):
            os.close(descriptor)
        os.set_blocking(reading, False)
        return reading

    def _become(self, output: int) -> None:
        """In the child. What cannot be done is told in its log, for the daemon to read there."""
        _signal.set_wakeup_fd(-1)
        os.setsid()
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        for number in (_signal.SIGHUP, _signal.SIGINT, _signal.SIGPIPE, _signal.SIGTERM, _signal.SIGCHLD, 25):
            _signal.signal(number, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, {_signal.SIGTERM})
        command = self._plan.command
        try:
            if self._plan.walled:
                os.dup2(self._environment, ENVIRONMENT_FD)
                os.set_inheritable(ENVIRONMENT_FD, True)
                os.execve(command[0], command, {"LC_ALL": "C.UTF-8"})
            with os.fdopen(self._environment, "rb") as file:
                variables = {line[0]: line[1] for line in decode(file.read())}
            kernel.prctl(kernel.PR_SET_PDEATHSIG, _signal.SIGKILL)
            if self._plan.folder is not None:
                os.chdir(self._plan.folder)
            os.execve(command[0], command, variables)
        except OSError as error:
            os.write(2, f"thaloom: {command[0]}: {error.strerror}\n".encode("utf-8", "surrogateescape"))

    def _ask(self, by: str) -> None:
        """The first to ask is who ended it."""
        if self._by is None:
            self._by = by
            self._kill_at = time.monotonic() + self._plan.grace_s
            self._family.ask()

    def _wait_ms(self, deadline: float | None) -> float:
        moments = [moment for moment in (deadline if self._by is None else None, self._kill_at) if moment is not None]
        wait_s = min([moment - time.monotonic() for moment in moments], default=_LONGEST_WAIT_S)
        return max(0.0, min(wait_s, _LONGEST_WAIT_S)) * 1000

    def _reap(self) -> bool:
        """Take the status of all that have ended, orphans too; whether any is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._program:
                self._status = os.waitstatus_to_exitcode(status)
                self._ended_at = time.time()

    def _pump(self, output: int) -> bool:
        """Take what it has written, a bounded amount; False when nobody can write any more."""
        for _ in range(16):
            try:
                block = os.read(output, _BLOCK_BYTES)
            except BlockingIOError:
                return True
            if not block:
                return False
            self._log.write(block)
        return True

    def _clear_away(self, output: int) -> None:
        """Whatever it left running ends with it, and what was said until then is kept."""
        give_up = time.monotonic() + CLEARING_S
        while self._reap() or self._family.members():
            self._family.kill()
            self._pump(output)
            if time.monotonic() > give_up:
                break
            time.sleep(0.002)
        while self._pump(output) and time.monotonic() < give_up:
            time.sleep(0.002)
        self._log.close()

    def _prepare_end(self) -> int:
        """The bytes are there already when the end is to be written: a full disk cannot lose it."""
        descriptor = os.open(f"{self._plan.ended}.partial", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.write(descriptor, b" " * END_BYTES)
        os.fsync(descriptor)
        return descriptor

    def _write_end(self, descriptor: int) -> None:
        status = self._status
        assert status is not None
        by = self._by or ("exit" if status >= 0 else "signal")
        code, signal = (str(status), "null") if status >= 0 else ("null", str(-status))
        text = (
            f'{{"attempt":{self._plan.attempt},"by":"{by}","exit_code":{code},"signal":{signal},'
            f'"ended_at":{self._ended_at!r},"log_lost_bytes":{self._log.lost_bytes}}}'
        )
        os.pwrite(descriptor, text.encode().ljust(END_BYTES), 0)
        os.fsync(descriptor)
        os.rename(f"{self._plan.ended}.partial", self._plan.ended)
        _flush_folder(self._plan.ended)


def _write_line(descriptor: int, what: str, pid: int) -> None:
    with open(f"/proc/{pid}/stat", "rb") as file:
        text = file.read()
    start_ticks = int(text[text.rindex(b")") + 2 :].split()[19])
    os.write(descriptor, f"{what}\t{pid}\t{start_ticks}\n".encode())
    os.fsync(descriptor)


def _flush_folder(path: str) -> None:
    descriptor = os.open(os.path.dirname(path), os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _empty(pipe: int) -> None:
    try:
        while len(os.read(pipe, 512)) == 512:
            pass
    except BlockingIOError:
        pass


def _nothing(*_: object) -> None:
    """For the pipe's sake: an ignored signal wakes nobody."""
