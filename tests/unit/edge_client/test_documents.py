"""Documents are read as written, each fault is told with file and line, and nothing that is read can do harm."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thaloom.base.errors import BadParameter, TooLarge
from thaloom.edge.client import documents as reading
from thaloom.edge.client.documents import Written, explained, read_documents, scalar, to_yaml

SERVICE = """\
apiVersion: thaloom/v1
kind: Service
metadata:
  name: chat
  labels: {app: demo}
spec:
  model: tiny
  num_threads: 2
"""


def read(text: str) -> list[Any]:
    return [one.value for one in read_documents(text.encode(), "f.yaml")]


def fault(text: str | bytes) -> str:
    with pytest.raises(BadParameter) as caught:
        for one in read_documents(text if isinstance(text, bytes) else text.encode(), "f.yaml"):
            one.document()
    return caught.value.message


def test_several_documents_of_a_file_and_an_empty_one_between() -> None:
    found = read_documents((SERVICE + "---\n---\n" + SERVICE.replace("chat", "talk")).encode(), "f.yaml")
    assert [one.document().metadata.name for one in found] == ["chat", "talk"]
    assert found[1].where(["metadata", "name"]) == "f.yaml:14"


def test_json_is_read_alone_and_as_a_list() -> None:
    (one,) = read(SERVICE)
    assert read(json.dumps(one)) == [one]
    assert read(json.dumps([one, one])) == [one, one]
    (_, second) = read_documents(json.dumps([one, one], indent=1).encode(), "f.json")
    assert second.where(["spec", "model"]) == "f.json:26"


def test_json_that_yaml_cannot_read_is_json() -> None:
    assert read('\t{"a":\t"\\ud83d\\ude00"}') == [{"a": "\U0001f600"}]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None), ("~", None), ("null", None), ("true", True), ("False", False), ("no", "no"), ("on", "on"),
        ("12", 12), ("-3", -3), ("0o17", 15), ("0x1F", 31), ("017", 17), ("1_000", "1_000"), ("22:22", "22:22"),
        ("1.5", 1.5), (".5", 0.5), ("1e3", 1000.0), ("2026-11-22", "2026-11-22"), ("=", "="), ("<<", "<<"),
        (".inf", ".inf"), ("9" * 5000, "9" * 5000),
    ],
)  # fmt: skip
def test_scalars_are_those_of_the_core_schema(text: str, value: object) -> None:
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


def test_what_is_quoted_is_a_word() -> None:
    assert read("a: '12'\nb: \"true\"\nc: |\n  12\n") == [{"a": "12", "b": "true", "c": "12\n"}]


def test_an_anchor_stands_for_its_value() -> None:
    assert read("a: &x {b: 1}\nc: *x\n") == [{"a": {"b": 1}, "c": {"b": 1}}]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: [\n", "not YAML"),
        ("a: 1\na: 2\n", "f.yaml:2: 'a' is there twice"),
        ("a: !!python/object/apply:os.system [x]\n", "f.yaml:1: tags are not read"),
        ("a: !!binary aGk=\n", "tags are not read"),
        ("? [1, 2]\n: 3\n", "a key must be a word"),
        ("a: *b\n", "no anchor &b"),
        ("a: &a [*a]\n", "no anchor &a"),
        (b"\xff\xfe\x00", "not UTF-8"),
        ('{"a": 1, "a": 2}', "'a' is there twice"),
        ("just words\n", "f.yaml:1: not a document"),
        (SERVICE.replace("  name: chat", "  nmae: chat"), "f.yaml:4: unknown field 'metadata.nmae'"),
        (SERVICE + "spce: {}\n", "f.yaml:9: unknown field 'spce'"),
        (SERVICE.replace("demo", "true"), "f.yaml:5: metadata.labels.app: "),
        (SERVICE.replace("thaloom/v1", "thaloom/v9"), "f.yaml:1: apiVersion: "),
        ("[" * 100 + "]" * 100, "deeper than 64 levels"),
        ("a: " * 3 + "1", "not YAML"),
    ],
)
def test_a_fault_is_told_with_its_line(text: str | bytes, words: str) -> None:
    assert words in fault(text)


def test_nothing_grows_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for number in range(1, 12):
        laughs += f"a{number}: &a{number} [{', '.join(10 * [f'*a{number - 1}'])}]\n"
    assert "values" in fault(laughs)
    monkeypatch.setattr(reading, "MAX_BYTES", 10)
    with pytest.raises(TooLarge):
        read_documents(b"a: 12345678", "f.yaml")


def test_what_the_node_says_of_a_document_is_told_with_its_line() -> None:
    written = read_documents((SERVICE + "---\n" + SERVICE.replace("chat", "talk")).encode(), "f.yaml")
    by_number = explained(BadParameter("no", param="spec.model", document=1), written)
    assert by_number.message == "f.yaml:16: no"
    by_subject = explained(BadParameter("no", param="spec.gone", subject="service/talk"), written)
    assert by_subject.message == "f.yaml:15: no"
    assert explained(BadParameter("no", subject="service/other"), written).message == "no"
    assert explained(BadParameter("no"), [Written(3, "f")]).message == "no"


TRICKY = ["no", "12", "1e3", "12e4", "0o7", "null", "~", "", "a: b", "# x", "-", "---", "=", "<<", "{", "'", "\u2028"]
ANY = st.text(st.characters(exclude_categories=("Cs", "Cc"), include_characters="\t\n"), max_size=12)
WORDS = ANY | st.sampled_from(TRICKY)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(st.dictionaries(WORDS, VALUES, min_size=1, max_size=4), min_size=1, max_size=3))
def test_what_is_written_is_read_back(documents: list[dict[str, Any]]) -> None:
    assert read(to_yaml(documents)) == documents
    assert read(json.dumps(documents)) == documents
