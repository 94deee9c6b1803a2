"""The steps of a plan, in its order. What each one's words mean is beside it in STEPS."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` brings enum along
import os
import resource
import sys

from thaloom.kernel.sandbox.inside import kernel_calls as kernel
from thaloom.kernel.sandbox.inside import landlock, namespaces, seccomp
from thaloom.kernel.sandbox.inside.view import View
from thaloom.kernel.sandbox.inside.words import decode

TYPE_CHECKING = False  # typing takes longer to import than the walls to build
if TYPE_CHECKING:
    from collections.abc import Callable

NO_WALL = 71
NO_COMMAND = 127


def main(arguments: list[str]) -> int:
    """Returns only if the command could not be started."""
    plan, divider, *command = arguments
    assert divider == "--", "usage: PLAN -- COMMAND..."
    with open(plan, "rb") as file:
        steps = decode(file.read())
    step: tuple[str, ...] = ("command",)
    report = _Report()
    try:
        building = _Building(report)
        for step in steps:
            building.do(step)
        step = ("command",)
        for number in (13, 25):  # SIGPIPE, SIGXFSZ: Python ignores them, and a program would inherit that
            _signal.signal(number, _signal.SIG_DFL)
        inherited = {} if building.own_environment else dict(os.environ)
        os.execve(command[0], command, inherited | building.environment)
    except (OSError, KeyError) as error:
        reason = f"{command[0]}: {error}" if step == ("command",) else f"wall {step[0]!r} cannot be built: {error}"
        report.write(reason, step[0])
        print(f"thaloom: {reason}", file=sys.stderr, flush=True)
    return NO_COMMAND if step == ("command",) else NO_WALL


def enter(steps: list[tuple[str, ...]]) -> dict[str, str]:
    """Build the walls around this very process, for one that becomes what it is to be without starting a program; the
    variables that its environment is to have besides. It must have one thread: namespaces, privileges and filters are
    each thread's own. Raises OSError that names the wall; who got so far is behind some of them, and must end."""
    report = _Report()
    step: tuple[str, ...] = ()
    try:
        if len(os.listdir("/proc/self/task")) != 1:
            raise OSError("a process with several threads cannot be put behind walls")
        building = _Building(report)
        for step in steps:
            building.do(step)
    except (OSError, KeyError) as error:
        raise OSError(f"wall {step[0]!r} cannot be built: {error}" if step else str(error)) from error
    finally:
        report.close()
    return building.environment


class _Report:
    """Where a failure is told. The file is opened before the walls are up: it may lie outside them."""

    def __init__(self) -> None:
        self._descriptor = -1

    def open(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def write(self, reason: str, wall: str) -> None:
        """As base.errors.ThaloomError.to_dict; by hand, for importing json takes longer than all the rest."""
        if self._descriptor >= 0:
            text = "".join(letter if " " <= letter <= "~" and letter not in '"\\' else "?" for letter in reason)
            details = f'{{"wall":"{wall}"}}'
            line = f'{{"code":"not_enforceable","message":"{text}","param":null,"retry_after_s":null,'
            os.write(self._descriptor, f'{line}"details":{details}}}\n'.encode())

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class _Building:
    def __init__(self, report: _Report) -> None:
        self.environment: dict[str, str] = {}
        self.own_environment = False
        self._parent = os.getppid()
        self._report = report
        self._view = View()
        self._rules: list[tuple[str, int]] = []
        self._device, self._held = "", -1

    def do(self, step: tuple[str, ...]) -> None:
        STEPS[step[0]](self, *step[1:])

    def failure(self, path: str) -> None:
        """Where to say what went wrong."""
        self._report.open(path)

    def join(self, _hierarchy: str, folder: str) -> None:
        """Become a member of a control group. Its hierarchy is told for those who read a plan later."""
        descriptor = os.open(f"{folder}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, b"0")
        finally:
            os.close(descriptor)

    def limit(self, name: str, value: str) -> None:
        """A resource limit by its name in setrlimit(2); never above what there is already."""
        number = getattr(resource, f"RLIMIT_{name}")
        _, most = resource.getrlimit(number)
        wanted = int(value) if most == resource.RLIM_INFINITY else min(int(value), most)
        resource.setrlimit(number, (wanted, wanted))

    def oom(self, score: str) -> None:
        """How soon the kernel takes this one when memory runs out; less than now only with the right to it."""
        with open("/proc/self/oom_score_adj", "r+") as file:
            if int(file.read()) < int(score):
                file.seek(0)
                file.write(score)

    def schedule(self, policy: str, nice: str, slice_ns: str) -> None:
        """Policy by its number (0 other, 3 batch), nice, and the turn it asks for."""
        kernel.set_scheduling(int(policy), int(nice), int(slice_ns))

    def umask(self, mask: str) -> None:
        os.umask(int(mask, 8))

    def disk(self, image: str) -> None:
        """A file as a block device, held until the view has mounted it. Early: later neither it nor our own modules
        can be reached."""
        from thaloom.kernel.sandbox.inside.loop import loop_device  # few need it, and imports are what a start costs

        self._device, self._held = loop_device(image)

    def separate(self, *names: str) -> None:
        """Namespaces to leave."""
        namespaces.separate(names)

    def environ(self, name: str, value: str) -> None:
        self.environment[name] = value

    def environment_from(self, descriptor: str) -> None:
        """All its variables: a plan's lines of name and value from an open descriptor. What this launcher itself was
        given is not handed on."""
        with open(int(descriptor), "rb") as file:
            self.environment |= {line[0]: line[1] for line in decode(file.read())}
        self.own_environment = True

    def folder(self, path: str) -> None:
        """Where it starts."""
        os.chdir(path)

    def with_parent(self) -> None:
        """It does not outlive who started it. Late: giving up rights takes this back."""
        kernel.prctl(kernel.PR_SET_PDEATHSIG, _signal.SIGKILL)
        if os.getppid() != self._parent:
            raise OSError("its parent has ended")

    def view(self, what: str, *words: str) -> None:
        """A part of the new root: `begin`, `read`, `write`, `disk`, `scratch`, `cover`, `link`, `processes`,
        `finish`."""
        match what:
            case "disk":
                self._view.disk(self._device, words[0])
                os.close(self._held)
            case "read" | "write":
                self._view.bind(words[0], words[-1], write=what == "write")
            case "begin" | "finish" | "scratch" | "cover" | "link" | "processes":
                getattr(self._view, what)(*words)
            case _:
                raise KeyError(what)

    def allow(self, rights: str, path: str) -> None:
        """For Landlock: `read`, `write`, `sockets` or `device`."""
        self._rules.append((path, landlock.RIGHTS[rights]))

    def landlock(self, network: str) -> None:
        """Enforce what was allowed, and nothing else."""
        rules = landlock.Rules(forbid_tcp=network == "none")
        for path, rights in self._rules:
            rules.allow(path, rights)
        rules.enforce()

    def privileges(self) -> None:
        """Of somebody who has any: root, or whoever is root of a user namespace."""
        kernel.drop_capabilities()

    def no_new_privileges(self) -> None:
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)

    def syscalls(self, network: str) -> None:
        seccomp.install(os.uname().machine, network)


STEPS: dict[str, Callable[..., None]] = {
    name: function
    for name, function in vars(_Building).items()
    if not name.startswith("_") and name != "do" and callable(function)
}
