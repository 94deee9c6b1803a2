"""`thaloom job run|ls|show|logs|stop|rm|wait`: programs that the node runs to their end."""

from __future__ import annotations

import re
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thaloom.base.units import parse_bytes, parse_duration
from thaloom.user.cli.command import Verbs, a_name, argument, finite, option, verb
from thaloom.user.cli.completing import jobs as complete_jobs
from thaloom.user.cli.conditions import words_of
from thaloom.user.cli.nearby import suggesting
from thaloom.user.cli.node import connect
from thaloom.user.cli.output import ABSENT, Colour, Output, age, date, harmless, paint, size
from thaloom.user.cli.several import do_each, raise_refusals
from thaloom.user.cli.texts import text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from thaloom.edge.client.control import ControlClient
    from thaloom.edge.wire.control import Job, JobRequest

_HERE = "thaloom.user.cli.job:"
command = Verbs(
    "job",
    key="job",
    sections={
        "section.job": {
            "run": _HERE + "run",
            "ls": _HERE + "ls",
            "show": _HERE + "show",
            "logs": _HERE + "logs",
            "wait": _HERE + "wait",
            "stop": _HERE + "stop",
            "rm": _HERE + "rm",
        }
    },
    aliases={"list": "ls", "remove": "rm", "start": "run"},
)
_COLOURS: dict[str, Colour] = {"succeeded": "green", "failed": "red", "running": "green", "pending": "yellow"}
_ENDED = ":ended"
_SIGNALLED = 128
"""A shell's way of telling a signal in an exit code."""


def _duration(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx=context, param=parameter) from error


def _bytes(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    try:
        return None if value is None else parse_bytes(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx=context, param=parameter) from error


def _pairs(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = dict(value.split("=", 1) for value in values if "=" in value)
    if len(pairs) < len(values):
        raise click.BadParameter(text("job.bad_pair", value=values[0]), ctx=context, param=parameter)
    return pairs


def _paths(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> list[str]:
    """The node does not know where its caller stands."""
    return [str(Path(value).absolute()) for value in values]


@verb("job.run", changes=True)
@argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND...")
@option("--name", type=a_name, metavar="NAME")
@option("--after", multiple=True, type=a_name, metavar="JOB[:ended]", shell_complete=complete_jobs)
@option("--retries", type=click.IntRange(0, 1_000_000), default=0, metavar="N")
@option("--retry-on", "retry_codes", type=click.IntRange(1, 255), multiple=True, metavar="CODE")
@option("--backoff", "backoff_s", callback=_duration, metavar="DURATION")
@option("--deadline", "deadline_s", callback=_duration, metavar="DURATION")
@option("--memory", "memory_bytes", callback=_bytes, metavar="SIZE")
@option("--cpus", type=click.FloatRange(0.001, 10_000), callback=finite, metavar="N")
@option("--pids", "num_pids", type=click.IntRange(min=1), metavar="N")
@option("--disk", "disk_bytes", callback=_bytes, metavar="SIZE")
@option("--devices", "num_devices", type=click.IntRange(min=0), default=0, metavar="N")
@option("--network", type=click.Choice(["none", "loopback", "host"]), default="none")
@option("--env", multiple=True, callback=_pairs, metavar="NAME=VALUE")
@option("--secret", "secret_places", multiple=True, callback=_pairs, metavar="NAME=PLACE")
@option("--directory", type=click.Path(file_okay=False), metavar="DIR")
@option("--read", multiple=True, callback=_paths, metavar="PATH")
@option("--write", multiple=True, callback=_paths, metavar="PATH")
@option("--host-files", "whole_host", is_flag=True)
@option("--grace", "grace_s", callback=_duration, metavar="DURATION")
@option("--ttl", "ttl_s", callback=_duration, metavar="DURATION")
@option("--replace", is_flag=True)
@option("-f", "--follow", is_flag=True)
def run(output: Output, words: tuple[str, ...], name: str | None, follow: bool, **wish: Any) -> int:
    with connect() as node:
        job = node.run_job(name or _made_up(words[0]), _request(words, wish))
        if not follow:
            output.document(job.model_dump())
            output.line(job.name)
            return 0
        output.note(text("job.running", name=job.name))
        with node.job_logs(job.name, follow=True, tail=10_000) as lines:
            _show(output, lines)
        ended = node.wait_job(job.name)
    output.document(ended.model_dump())
    output.note(_told(ended))
    return exit_code(ended)


run.allow_interspersed_args = False  # what comes after the program is the program's


def _request(words: tuple[str, ...], wish: dict[str, Any]) -> JobRequest:
    from thaloom.edge.wire.control import JobDependency, JobRequest, JobResources

    cpus = wish.pop("cpus")
    resources = JobResources(
        memory_bytes=wish.pop("memory_bytes"),
        cpu_permille=None if cpus is None else max(1, round(cpus * 1000)),
        num_pids=wish.pop("num_pids"),
        disk_bytes=wish.pop("disk_bytes"),
        num_devices=wish.pop("num_devices"),
    )
    after = [
        JobDependency(job=job.removesuffix(_ENDED), ending="ended" if job.endswith(_ENDED) else "succeeded")
        for job in wish.pop("after")
    ]
    codes, directory = wish.pop("retry_codes"), wish.pop("directory")
    return JobRequest(
        command=list(words),
        secrets=wish.pop("secret_places"),
        resources=resources,
        depends_on=after,
        retry_codes=list(codes) or None,
        directory=None if directory is None else str(Path(directory).absolute()),
        **{key: value for key, value in wish.items() if value is not None},
    )


def _made_up(program: str) -> str:
    stem = re.sub(r"[^a-z0-9]+", "-", Path(program).name.lower()).strip("-")[:32] or "job"
    return f"{stem}-{secrets.token_hex(3)}"


def exit_code(job: Job) -> int:
    """The program's own, as a shell would tell it; 1 for one that never had one."""
    last = job.attempts[-1] if job.attempts else None
    if job.phase == "succeeded":
        return 0
    if last is None or (last.exit_code is None and last.signal is None):
        return 1
    return (last.exit_code or 1) if last.exit_code is not None else _SIGNALLED + (last.signal or 0)


@verb("job.ls")
@option("--phase", type=click.Choice(["pending", "running", "succeeded", "failed", "stopped"]))
@option("-n", "--limit", type=click.IntRange(1, 100_000), default=100, metavar="N")
def ls(output: Output, phase: str | None, limit: int) -> None:
    with connect() as node:
        found = node.jobs(phase=phase, limit=limit)
    output.document(found.model_dump())
    if not found.jobs:
        output.note(text("job.none"))
        return
    head = [
        text(f"head.{word}") for word in ("name", "state", "reason", "attempts", "exit", "memory", "age", "command")
    ]
    output.table(head, [_row(job) for job in found.jobs], right=frozenset({3, 4, 5}))
    if len(found.jobs) == limit:
        output.note(text("job.more", count=limit, all=sum(found.counts.values())))


def _row(job: Job) -> list[str]:
    last = job.attempts[-1] if job.attempts else None
    code = "" if last is None or last.exit_code is None else str(last.exit_code)
    return [
        job.name,
        _phase(job),
        _reason(job),
        str(job.num_attempts),
        code or ABSENT,
        size(job.memory_bytes),
        age(job.created_at),
        harmless(" ".join(job.spec.command))[:48],
    ]


def _phase(job: Job) -> str:
    words = text(f"job.phase.{job.phase}")
    return paint(words, _COLOURS[job.phase]) if job.phase in _COLOURS else words


def _reason(job: Job) -> str:
    return next((each.reason for each in job.conditions if each.kind == "Ready"), ABSENT)


@verb("job.show")
@argument("name", type=a_name, shell_complete=complete_jobs)
def show(output: Output, name: str) -> None:
    with connect() as node, _near(node, name):
        job = node.job(name)
    output.document(job.model_dump())
    facts = [
        ("name", job.name),
        ("state", _phase(job)),
        ("reason", _reason(job)),
        ("command", harmless(" ".join(job.spec.command))),
        ("created", date(job.created_at)),
        ("attempts", f"{job.num_attempts} ({text('job.failures', count=job.failures, retries=job.spec.retries)})"),
    ]
    facts += [("pid", str(job.pid))] if job.pid is not None else []
    facts += [("memory", size(job.memory_bytes))] if job.memory_bytes is not None else []
    facts += [("after", ", ".join(each.job for each in job.spec.depends_on))] if job.spec.depends_on else []
    output.facts([(text(f"head.{word}"), value) for word, value in facts])
    for condition in job.conditions:
        if condition.message:
            output.line(paint(harmless(f"{condition.kind}: {words_of(condition)}"), "yellow"))
    if job.attempts:
        output.line()
        head = [text(f"head.{word}") for word in ("attempt", "started", "ended_by", "exit", "signal")]
        output.table(head, [_attempt(each) for each in job.attempts])


def _attempt(each: Any) -> list[str]:
    return [
        str(each.number),
        date(each.started_at),
        each.ended_by or ABSENT,
        ABSENT if each.exit_code is None else str(each.exit_code),
        ABSENT if each.signal is None else str(each.signal),
    ]


@verb("job.logs")
@argument("name", type=a_name, shell_complete=complete_jobs)
@option("-f", "--follow", is_flag=True)
@option("-n", "--tail", type=click.IntRange(0, 10_000), default=100, metavar="N")
def logs(output: Output, name: str, follow: bool, tail: int) -> None:
    with connect() as node, _near(node, name):
        with node.job_logs(name, follow=follow, tail=tail) as lines:
            if output.as_json:
                output.document({"name": name, "lines": list(lines)})
            else:
                _show(output, lines)


def _show(output: Output, lines: Iterator[str]) -> None:
    for line in lines:
        output.line(harmless(line) if sys.stdout.isatty() else line)


@verb("job.wait")
@argument("names", type=a_name, nargs=-1, required=True, metavar="NAME...", shell_complete=complete_jobs)
@option("--timeout", "timeout_s", type=click.FloatRange(min=0), callback=finite, metavar="SECONDS")
def wait(output: Output, names: tuple[str, ...], timeout_s: float | None) -> int:
    ended = []
    with connect() as node:
        for name in names:
            with _near(node, name):
                ended.append(node.wait_job(name, timeout_s=timeout_s))
    output.document({"jobs": [job.model_dump() for job in ended]})
    for job in ended:
        output.line(_told(job))
    return next((code for job in ended if (code := exit_code(job))), 0)


def _told(job: Job) -> str:
    message = harmless(job.message.strip().splitlines()[-1]) if job.message.strip() else ""
    return f"{job.name}: {_phase(job)} ({_reason(job)})" + (f": {message}" if message else "")


@verb("job.stop", changes=True)
@argument("names", type=a_name, nargs=-1, required=True, metavar="NAME...", shell_complete=complete_jobs)
def stop(output: Output, names: tuple[str, ...]) -> None:
    with connect() as node:

        def end(name: str) -> str:
            with _near(node, name):
                return node.stop_job(name).name

        stopped, refused = do_each(node, names, end)
    output.document({"stopped": stopped})
    for name in stopped:
        output.line(text("job.stopping", name=name))
    raise_refusals(refused, output)


@verb("job.rm", changes=True)
@argument("names", type=a_name, nargs=-1, required=True, metavar="NAME...", shell_complete=complete_jobs)
@option("--stop", "stop_first", is_flag=True)
def rm(output: Output, names: tuple[str, ...], stop_first: bool) -> None:
    with connect() as node:

        def remove(name: str) -> str:
            with _near(node, name):
                return node.remove_job(name, stop=stop_first).name

        removed, refused = do_each(node, names, remove)
    output.document({"removed": removed})
    for name in removed:
        output.line(text("job.removed", name=name))
    raise_refusals(refused, output)


def _near(node: ControlClient, name: str) -> Any:
    return suggesting(name, lambda: [job.name for job in node.jobs(limit=1000).jobs])
