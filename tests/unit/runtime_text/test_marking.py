"""How many tokens the beginning of a chat is: found by saying something else behind it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.runtime_text.tokenizers_of_the_field import byte_level, save
from thaloom.base.clock import Clock, ManualClock
from thaloom.base.events import Recorder
from thaloom.base.ids import RequestId
from thaloom.work.runtime.frontend.marking import num_in_common, otherwise, that_count
from thaloom.work.runtime.frontend.prompting import Speech, read_speech
from thaloom.work.runtime.text.templates import DEADLINE_S
from thaloom.work.runtime.types import ChatMessage, GenerateRequest, Mark, Pin, Templating, Tool

TEMPLATE = (
    "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}"
    "</{{ m.role }}>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ m.content }}{% endfor %}"
)
STRICT = (
    "{% for tool in tools or [] %}{{ tool.function.description }} {{ tool.function.name }}"
    "{% for name, what in tool.function.parameters.properties.items() %} {{ name }}: {{ what.type }}{% endfor %}"
    "{% endfor %}{% for m in messages %}<{{ m.role }}>{% if m.tool_calls %}"
    "{% if m.content %}{{ raise_exception('words beside calls') }}{% endif %}"
    "{% for c in m.tool_calls %}<tool_call>\n{{ c.function | tojson }}\n</tool_call>{% endfor %}"
    "{% else %}{{ m.content }}{% endif %}</{{ m.role }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TOOLS = (Tool(name="f", description="first"), Tool(name="g", description="second"))


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Speech:
    return read(tmp_path_factory.mktemp("model"), TEMPLATE)


def read(folder: Path, template: str, clock: Clock | None = None) -> Speech:
    paths = save(folder, byte_level(), tokenizer_config={"chat_template": template})
    return read_speech(paths, model="m", clock=clock or ManualClock(), emit=Recorder())


def turn(role: str, content: str, **extra: Any) -> ChatMessage:
    return ChatMessage(role=role, content=content, extra=extra)


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"id": name, "type": "function", "function": {"name": name, "arguments": arguments}}


def chat(*messages: ChatMessage, **fields: Any) -> GenerateRequest:
    return GenerateRequest(id=RequestId("r"), model="m", messages=messages, **fields)


def beginning(speech: Speech, request: GenerateRequest, mark: Mark | None) -> str:
    """The text of what would be pinned."""
    request = chat(
        *(request.messages or ()),
        tools=request.tools,
        templating=request.templating,
        pins=(Pin(seconds=9.0, mark=mark),),
    )
    prompt = speech.prompt_of(request)
    ((num_tokens, seconds),) = speech.pins_of(request, prompt)
    assert seconds == 9.0
    return speech.tokenizer.decode(prompt[:num_tokens], special=True)


SPOKEN = chat(
    turn("system", "Be brief. Today is Monday."),
    turn("user", "How is it?"),
    turn("assistant", "Let me see.", tool_calls=[call("f", a=1), call("g", b=2)]),
    turn("tool", "wet"),
    tools=TOOLS,
)

FIVE = Pin(seconds=300.0, mark=Mark(num_characters=9))
HOUR = Pin(seconds=3600.0, mark=Mark(num_characters=9))
TOOL = Pin(seconds=300.0, mark=Mark(num_messages=1, num_tools=1))
LAST_TOOL = Pin(seconds=300.0, mark=Mark(num_messages=1, num_tools=2))
FIVE_FURTHER = Pin(seconds=300.0, mark=Mark(num_messages=2, num_characters=11))
CALL = Pin(seconds=300.0, mark=Mark(num_messages=2, num_characters=5, num_calls=1))
HOUR_FURTHEST = Pin(seconds=3600.0, mark=Mark(num_messages=3, num_characters=3))
FIVE_OF_ALL = Pin(seconds=300.0)


@pytest.mark.parametrize(
    ("mark", "last"),
    [
        (Mark(num_characters=9), "<system>Be brief."),
        (Mark(num_messages=1, num_characters=10), "<user>How is it?</user><assistant>"),
        (Mark(num_messages=2, num_characters=11), 'Let me see.\n<tool_call>\n{"name": "'),
        (Mark(num_messages=2, num_characters=11, num_calls=1), '{"a": 1}}\n</tool_call>\n<tool_call>\n{"name": "'),
        (Mark(num_messages=2, num_characters=11, num_calls=2), "}}\n</tool_call></assistant><user><tool_response>\n"),
        (Mark(num_messages=3, num_characters=3), "wet\n</tool_response></user><assistant>"),
        (Mark(num_messages=1, num_tools=2), "</system><user>"),
        (None, "wet\n</tool_response></user><assistant>"),
    ],
)
def test_a_beginning_ends_behind_its_mark(speech: Speech, mark: Mark | None, last: str) -> None:
    assert beginning(speech, SPOKEN, mark).endswith(last)


def test_tools_behind_the_mark_are_not_of_it(speech: Speech) -> None:
    found = beginning(speech, SPOKEN, Mark(num_messages=1, num_tools=1))
    assert '"first"' in found
    assert '"g"' not in found


def test_what_begins_alike_all_the_same_is_of_it(speech: Speech) -> None:
    """The mark is where texts differ at the latest, not where the tokenizer cuts."""
    request = chat(turn("user", "0 and more"))
    assert beginning(speech, request, Mark()) == "<user>"


def test_an_answer_that_goes_on_is_of_the_beginning(speech: Speech) -> None:
    going_on = Templating(add_generation_prompt=False, continue_final_message=True)
    request = chat(turn("user", "Count."), turn("assistant", "1, 2"), templating=going_on)
    assert beginning(speech, request, Mark(num_messages=1, num_characters=4)).endswith("<assistant>1, 2")
    assert beginning(speech, request, Mark(num_characters=6)).endswith("Count.</user><assistant>")


def test_a_template_that_looks_at_the_shape_of_a_chat_is_content(tmp_path: Path) -> None:
    request = chat(turn("user", "a"), turn("assistant", "b"), turn("user", "c"))
    assert beginning(read(tmp_path, ALTERNATING), request, Mark(num_characters=1)) == "a"


def test_tools_behind_the_mark_keep_their_shape(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}}
    tools = tuple(dataclasses.replace(tool, parameters=schema) for tool in TOOLS)
    request = chat(turn("user", "How is it?"), tools=tools)
    assert beginning(read(tmp_path, STRICT), request, Mark(num_tools=1)) == "first f x: integer"


def test_a_turn_of_calls_alone_stays_one(tmp_path: Path) -> None:
    request = chat(turn("user", "a"), turn("assistant", "", tool_calls=[call("f")]), turn("tool", "wet"), tools=TOOLS)
    speech = read(tmp_path, STRICT.replace("parameters.properties", "parameters"))
    found = beginning(speech, request, Mark(num_characters=1))
    assert found.endswith('<user>a</user><assistant><tool_call>\n{"name": "')


@pytest.mark.parametrize(
    ("mark", "last"),
    [
        (Mark(num_characters=1), "<user>a</user><assistant>"),
        (Mark(num_messages=1, num_thought_characters=3), "<assistant>Hm."),
        (Mark(num_messages=1, num_thought_characters=9), "<assistant>Hm. Well.|"),
        (Mark(num_messages=1, num_thought_characters=9, num_characters=1), "Hm. Well.|b</assistant><assistant>"),
    ],
)
def test_thoughts_behind_the_mark_are_not_of_it(tmp_path: Path, mark: Mark, last: str) -> None:
    thinking = TEMPLATE.replace(
        "{{ m.content", "{% if m.reasoning_content %}{{ m.reasoning_content }}|{% endif %}{{ m.content"
    )
    request = chat(turn("user", "a"), turn("assistant", "b", reasoning_content="Hm. Well."), turn("assistant", "c"))
    assert beginning(read(tmp_path, thinking), request, mark).endswith(last)


def test_a_turn_of_thoughts_alone_stays_one() -> None:
    request = chat(turn("user", "a"), turn("assistant", "", reasoning_content="Hm."))
    assert otherwise(request, Mark()).messages == (turn("user", "0"), turn("assistant", "", reasoning_content="0"))


def test_a_mark_that_cannot_be_found_pins_nothing_and_harms_nobody(tmp_path: Path) -> None:
    digits_refused = "{% if m.content < 'a' %}{{ raise_exception('no') }}{% endif %}{{ m.content }}"
    speech = read(tmp_path, f"{{% for m in messages %}}{digits_refused}{{% endfor %}}")
    marked, whole = Pin(seconds=9.0, mark=Mark(num_characters=1)), Pin(seconds=5.0)
    request = chat(turn("user", "a"), turn("user", "b"), pins=(marked, whole))
    prompt = speech.prompt_of(request)
    assert speech.pins_of(request, prompt) == [(len(prompt), 5.0)]


@pytest.mark.parametrize(
    ("pins", "counting"),
    [
        ((), ()),
        ((FIVE, FIVE), (0,)),
        ((FIVE, FIVE_FURTHER), (1,)),
        ((FIVE_FURTHER, FIVE), (0,)),
        ((FIVE, FIVE_FURTHER, HOUR_FURTHEST), (2,)),
        ((HOUR, FIVE_FURTHER), (0, 1)),
        ((HOUR, FIVE_FURTHER, FIVE_OF_ALL), (0, 2)),
        ((TOOL, FIVE), (0, 1)),
        ((LAST_TOOL, FIVE, FIVE_FURTHER), (2,)),
        ((LAST_TOOL, FIVE), (0,)),
        ((CALL, FIVE_FURTHER), (0, 1)),
    ],
)
def test_of_marks_that_reach_further_for_as_long_the_last_counts(
    pins: tuple[Pin, ...], counting: tuple[int, ...]
) -> None:
    assert that_count(dataclasses.replace(SPOKEN, pins=pins)) == [pins[index] for index in counting]


def test_what_has_nothing_behind_it_is_not_rendered_again(speech: Speech, monkeypatch: pytest.MonkeyPatch) -> None:
    request = dataclasses.replace(SPOKEN, pins=(Pin(seconds=9.0, mark=Mark(num_messages=3, num_characters=3)),))
    prompt = speech.prompt_of(request)
    monkeypatch.setattr(Speech, "prompt_of", lambda *_: pytest.fail("rendered"))
    assert speech.pins_of(request, prompt) == [(len(prompt), 9.0)]


class Hurrying(ManualClock):
    """Passes by so much whenever somebody looks."""

    step = 0.0

    def monotonic(self) -> float:
        self._now += self.step
        return self._now


def test_a_mark_that_takes_too_long_to_find_pins_nothing(tmp_path: Path) -> None:
    clock = Hurrying()
    speech = read(tmp_path, TEMPLATE, clock)
    request = chat(turn("user", "a"), turn("user", "b"), pins=(Pin(seconds=9.0, mark=Mark(num_characters=1)),))
    prompt = speech.prompt_of(request)
    clock.step = DEADLINE_S + 1
    assert speech.pins_of(request, prompt) == []


TEXTS = st.text(alphabet="01 a\n", max_size=6)


@given(st.lists(TEXTS, min_size=1, max_size=4), st.data())
def test_what_is_behind_a_mark_is_another_and_what_is_before_it_the_same(texts: list[str], data: st.DataObject) -> None:
    request = chat(*(turn("user", text) for text in texts))
    index = data.draw(st.integers(0, len(texts) - 1))
    mark = Mark(num_messages=index, num_characters=data.draw(st.integers(0, len(texts[index]))))
    others = [message.content for message in otherwise(request, mark).messages or ()]
    assert others[:index] == texts[:index]
    assert others[index][: mark.num_characters] == texts[index][: mark.num_characters]
    assert all(other[:1] != text[:1] for other, text in zip(others[index + 1 :], texts[index + 1 :], strict=True))


MARKS = st.builds(
    Mark, num_messages=st.integers(0, 3), num_characters=st.integers(0, 3), num_thought_characters=st.integers(0, 3)
)
PINS = st.builds(Pin, seconds=st.sampled_from([300.0, 3600.0]), mark=st.none() | MARKS)


@given(st.lists(PINS, max_size=4))
def test_marks_that_do_not_count_would_change_nothing(speech: Speech, pins: list[Pin]) -> None:
    request = chat(*(turn("user", text) for text in ("one", "two", "three", "four")), pins=tuple(pins))
    prompt = speech.prompt_of(request)
    every = [found for pin in pins for found in speech.pins_of(dataclasses.replace(request, pins=(pin,)), prompt)]
    assert times(speech.pins_of(request, prompt)) == times(every)


def times(pins: list[tuple[int, float]]) -> list[float]:
    """Of each token, for how long it is to stay."""
    most = max((num_tokens for num_tokens, _ in pins), default=0)
    return [max(seconds for num_tokens, seconds in pins if num_tokens > index) for index in range(most)]


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_what_two_have_in_common(one: list[int], other: list[int]) -> None:
    num = num_in_common(one, other)
    assert one[:num] == other[:num]
    assert one[num : num + 1] != other[num : num + 1] or num == len(one) == len(other)
