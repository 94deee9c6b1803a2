"""What holds for every verb and every text."""

from __future__ import annotations

import re
import string
import subprocess
import sys
from pathlib import Path
from typing import get_args

import click
import pytest

from thaloom.base.errors import ERRORS
from thaloom.init.jobs.reporting import _ENDS
from thaloom.kernel.sandbox.ends import Reason
from thaloom.user.cli import catalogue, main
from thaloom.user.cli.catalogue import TEXTS
from thaloom.user.cli.command import Verb, own_key
from thaloom.user.cli.output import width
from thaloom.user.cli.reference import contexts, page
from thaloom.user.cli.texts import VARIABLES, has_text, language, text

ROOT = Path(__file__).resolve().parents[3]
CONTEXTS = {context.command_path: context for context in contexts()}
PROMISED = {
    *("up", "down", "status", "device", "doctor", "outgoing", "pull", "ls", "show", "rm", "verify"),
    *("apply", "diff", "export", "wait", "job"),
    *("quantize", "run", "serve", "ps", "stop", "logs", "alias", "tenant", "token", "version", "completion", "help"),
    *("history", "explain", "undo", "approve", "audit", "encrypt", "decrypt", "key", "cert", "backup", "restore"),
}


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


def test_every_promised_verb_is_there() -> None:
    verbs = [path.split()[1] for path in CONTEXTS if path.count(" ") == 1]
    assert sorted(verbs) == sorted(PROMISED)


@pytest.mark.parametrize("path", CONTEXTS)
@pytest.mark.parametrize("tongue", ["en", "zh"])
def test_every_verb_has_help_in_both_languages(path: str, tongue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THALOOM_LANG", tongue)
    shown = CONTEXTS[path].get_help()
    assert ("用法" in shown) == (tongue == "zh")
    assert "Show this message and exit" not in shown, "click's own words are not translated"


@pytest.mark.parametrize("path", [path for path, context in CONTEXTS.items() if isinstance(context.command, Verb)])
def test_every_verb_takes_json_and_home(path: str) -> None:
    names = {name for parameter in CONTEXTS[path].command.params for name in parameter.opts}
    assert {"--json", "-o", "--output", "--home"} <= names


@pytest.mark.parametrize("path", CONTEXTS)
def test_every_parameter_has_a_text(path: str) -> None:
    context = CONTEXTS[path]
    for parameter in context.command.params:
        kind = "option" if isinstance(parameter, click.Option) else "argument"
        assert has_text(own_key(context, kind, parameter.name or "")), f"{path}: {parameter.name}"


@pytest.mark.parametrize("code", sorted(ERRORS))
def test_every_error_has_a_title_and_a_hint(code: str) -> None:
    assert has_text(f"title.{code}")
    assert has_text(f"hint.{code}")


def test_no_title_or_hint_is_for_an_error_that_is_not() -> None:
    codes = {key.partition(".")[2] for key in TEXTS if key.startswith(("title.", "hint."))}
    assert codes == set(ERRORS)


@pytest.mark.parametrize("key", TEXTS)
def test_both_languages_have_the_same_placeholders(key: str) -> None:
    english, chinese = ({name for _, name, _, _ in string.Formatter().parse(words) if name} for words in TEXTS[key])
    assert english == chinese
    assert all(TEXTS[key])


def test_every_reason_of_a_condition_has_a_title() -> None:
    """Those that are no name of an error: such a one has the error's."""
    init = ROOT / "src/thaloom/init"
    told = {"CertificateExpiring", "Crashed", "Retrying"} | set(get_args(Reason)) | {*_ENDS.values()}
    rounds = ("rounds/conditions", "rounds/reporter", "rounds/reconcile")
    for path in (*rounds, "memory/low_memory", "access/certificates", "jobs/decide", "jobs/reporting"):
        source = (init / f"{path}.py").read_text()
        told |= set(re.findall(r'(?:reason=|reason = \w+, |_bad\("\w+", |told.append\(\()"([A-Z]\w+)"', source))
    errors = {error.__name__ for error in ERRORS.values()}
    silent = {"AsWished", "Serving", "Running", "Succeeded"}
    titles = {key.removeprefix("reason.") for key in TEXTS if key.startswith("reason.")}
    assert told - errors - silent <= titles
    assert titles <= told | errors


def test_no_text_is_in_two_files() -> None:
    files = Path(catalogue.__path__[0]).glob("*.py")
    keys = [key for file in files for key in re.findall(r'^    "([^"]+)": \(', file.read_text(), re.MULTILINE)]
    assert sorted(keys) == sorted(TEXTS)


def test_every_text_is_used() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "src/thaloom/user/cli").glob("*.py"))
    # Made from a word: the tests above hold verbs, parameters and errors to theirs.
    made = {"verb", "more", "examples", "argument", "option", "title", "hint", "phase", "problem", "stage", "head",
            "manual", "environment", "exit", "risk", "ending", "fault", "doctor", "applied", "job.phase",
            "reason"}  # fmt: skip
    unused = [
        key
        for key in TEXTS
        if key.partition(".")[0] not in made
        and key.rpartition(".")[0] not in made
        and not re.search(f"[\"']{key}[\"']", source)
    ]
    assert unused == []


def test_help_lines_fit_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for tongue in ("en", "zh"):
        monkeypatch.setenv("THALOOM_LANG", tongue)
        for path, context in CONTEXTS.items():
            narrow = click.Context(context.command, parent=context.parent, info_name=path, terminal_width=80)
            for line in narrow.get_help().splitlines():
                assert width(line) <= 80, f"{tongue} {path}: {line}"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_TW"}, "zh"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "C", "LC_MESSAGES": "zh_CN"}, "zh"),
        ({"LC_ALL": "zh_CN", "THALOOM_LANG": "en"}, "en"),
        ({"LC_ALL": "C", "THALOOM_LANG": "ZH"}, "zh"),
        ({"LC_ALL": "", "LANG": "zh_CN"}, "zh"),
    ],
    ids=str,
)
def test_language(environment: dict[str, str], expected: str) -> None:
    assert language(environment) == expected


def test_chinese(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setenv("THALOOM_LANG", "zh")
    monkeypatch.setenv("THALOOM_HOME", str(tmp_path))
    assert main(["ls"]) == 5
    told = capsys.readouterr().err
    assert "错误：" in told.replace(": ", "：")
    assert "节点未运行" in told
    assert "thaloom up" in told
    assert main(["shw"]) == 2
    assert "没有这个命令" in capsys.readouterr().err
    assert main(["show"]) == 2
    assert "缺少 MODEL" in capsys.readouterr().err


def test_a_text_that_is_not_there_is_a_bug_of_ours() -> None:
    with pytest.raises(KeyError):
        text("no.such.key")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "_THALOOM_COMPLETE" in script
    assert "thaloom" in script


def complete(*words: str, home: Path) -> list[str]:
    command = [sys.executable, "-c", "import sys; from thaloom.user.cli import main; sys.exit(main())"]
    environment = {
        "_THALOOM_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(("thaloom", *words)),
        "COMP_CWORD": str(len(words)),
        "THALOOM_HOME": str(home),
    }
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return [line.partition(",")[2] for line in shown.splitlines() if line]


def test_the_shell_is_offered_verbs_options_and_models(tmp_path: Path) -> None:
    assert complete("st", home=tmp_path) == ["stop", "status"]
    assert "--kv-bytes" in complete("serve", "--", home=tmp_path)
    assert complete("run", "t", home=tmp_path) == ["tiny"], "where no node runs, what comes with Thaloom"
    assert complete("logs", "d", home=tmp_path) == ["daemon", "door"]
    assert complete("stop", "", home=tmp_path) == []


def test_the_page_of_verbs_is_up_to_date() -> None:
    kept = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert kept == page(), "make docs"
