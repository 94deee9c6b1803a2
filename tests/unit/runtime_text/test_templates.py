"""Chat templates: as their authors saw them, and never more than a prompt."""

from __future__ import annotations

import pytest

from thaloom.base.clock import ManualClock
from thaloom.base.errors import BadParameter, NotServable
from thaloom.work.runtime.text.templates import MAX_TEMPLATE_CHARACTERS, ChatTemplate
from thaloom.work.runtime.types import ChatMessage

TURNS = (
    ChatMessage(role="system", content="Be brief."),
    ChatMessage(role="user", content="Hi <b>", extra={"name": "ann"}),
)


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, clock=ManualClock(1_700_000_000.0), bos_token="<s>", eos_token="</s>")


def test_blocks_leave_no_blank_lines_and_nothing_is_escaped() -> None:
    source = """{{ bos_token }}
{% for message in messages %}
    {% if message.role == 'user' %}
[{{ message['content'] }}]
    {% endif %}
{% endfor %}
{% if add_generation_prompt %}>{% endif %}"""
    assert template(source).render(TURNS) == "<s>\n[Hi <b>]\n>"


def test_a_message_brings_what_else_the_caller_said_of_it() -> None:
    assert template("{{ messages[1].name }}{{ messages[0].name is defined }}").render(TURNS) == "annFalse"


def test_loop_controls_generation_marks_and_json_work_as_at_hugging_face() -> None:
    source = (
        "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}"
        "{% generation %}{{ m | tojson }}{% endgeneration %}{% endfor %}"
    )
    assert template(source).render(TURNS) == '{"role": "user", "content": "Hi <b>", "name": "ann"}'
    assert template("{{ {'é': 1} | tojson(indent=2) }}").render(TURNS) == '{\n  "é": 1\n}'


def test_the_loop_variable_knows_its_place() -> None:
    source = "{% for m in messages %}{{ loop.index0 }}{{ loop.last }}{{ loop.length }} {% endfor %}"
    assert template(source).render(TURNS) == "0False2 1True2 "


def test_tools_are_there_and_none() -> None:
    assert template("{% if tools is none and documents is none %}none{% endif %}").render(TURNS) == "none"


def test_the_date_comes_from_the_clock_we_hand_in() -> None:
    assert template("{{ strftime_now('%Y') }}").render(TURNS) == "2023"


def test_namespaces_strings_and_concatenation_work() -> None:
    source = (
        "{% set ns = namespace(x='') %}{% for m in messages %}{% set ns.x = ns.x ~ m.role + '/' %}{% endfor %}"
        "{{ ns.x | trim('/') }}{{ 'a-b'.split('-') | join('+') }}{{ 'aa' | replace('a', 'b') }}"
    )
    assert template(source).render(TURNS) == "system/usera+bbb"


def test_text_is_replaced_and_joined_within_loops_and_blocks_too() -> None:
    source = (
        "{% for m in messages %}{% set w = m.content.replace('i', 'o', 1) %}{{ w }}{{ '-'.join([w, m.role]) }} "
        "{% endfor %}{% block b %}{{ 'aa'.replace('a', 'b') }}{% endblock %}"
    )
    assert template(source).render(TURNS) == "Be broef.Be broef.-system Ho <b>Ho <b>-user bb"


def test_lines_are_indented_and_numbers_rounded_as_jinja_does_it() -> None:
    assert template("{{ 'a\n\nb' | indent(2) }}").render(TURNS) == "a\n\n  b"
    assert template("{{ 'a\nb' | indent(width=3, first=True) }}").render(TURNS) == "   a\n   b"
    assert template("{{ 'a\n\nb' | indent('--', true, true) }}").render(TURNS) == "--a\n--\n--b"
    assert template("{{ 2.346 | round(2) }} {{ 7 | round }} {{ 2.1 | round(0, 'ceil') }}").render(TURNS) == "2.35 7 3.0"


def test_values_are_put_into_a_text() -> None:
    assert template("{{ '%s=%d, %.2f%%' | format('a', 3, 2.346) }}").render(TURNS) == "a=3, 2.35%"
    assert template("{% for m in messages %}{{ '%s' | format(m.role) }}{% endfor %}").render(TURNS) == "systemuser"


def test_what_a_template_says_against_the_messages_is_told_to_the_caller() -> None:
    with pytest.raises(BadParameter, match="roles must alternate") as caught:
        template("{{ raise_exception('roles must alternate') }}").render(TURNS)
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(x=1) }}",
        "{{ nothing.at.all }}",
        "{{ 1 / 0 }}",
        "{{ [] [3] + 1 }}",
        "{{ '%d' % 'x' }}",
        "{{ messages | tojson(indent=100000000) }}",
        "{{ '{:>999999999}'.format(1) }}",
        "{{ 'a'.ljust(999999999) }}",
        "{{ 'a' * 999999999 }}",
        "{{ [0] * 999999999 }}",
        "{{ 9 ** 99999999 }}",
        "{{ range(99999999) | list }}",
        "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
        "{% for a in ('x' * 9999) %}{% for b in ('x' * 9999) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='aa') %}{% for a in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x='aa') %}{% for a in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set n = namespace(x='aa') %}{% for a in range(99) %}{% set n.x = n.x | replace('a', 'aa') %}{% endfor %}",
        "{% set n = namespace(x=['a']) %}{% for a in range(99) %}{% set n.x = [n.x|join, n.x|join] %}{% endfor %}",
        "{% for a in range(9000) %}{{ 'x' * 9000 }}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% include 'x' %}",
        "{{ lipsum(n=100000) }}",
        "{{ ('a'.encode() * 30000000 * 30000000) | length }}",
        "{{ (5).to_bytes(999999999999, 'big') }}",
        "{{ ''.join(['a' * 3000000] * 100000) | length }}",
        "{{ (['a' * 3000000] * 100000) | string | length }}",
        "{{ (['a' * 3000000] * 100000) | upper | length }}",
        "{% set n = namespace(a='aa') %}{% for i in range(60) %}{% set n.a %}{{n.a}}{{n.a}}{% endset %}{% endfor %}",
        "{% set n = namespace(l=[]) %}{% for i in range(9999) %}{% set n.l = n.l + ['a' * 9999999] %}{% endfor %}",
        "{% set n = namespace(l=[], a='a' * 9999999) %}"
        "{% for i in range(9999) %}{% set n.l = n.l + [n.a[i:]] %}{% endfor %}",
        "{% set x = 'a' * 9999999 %}{% for i in range(9999) %}{% set y = x | upper ~ x.upper() %}{% endfor %}",
        "{% for i in range(100000) %}{% set x = range(100000) | list %}{% endfor %}",
        "{{ ('é' * 30000000) | list | length }}{{ ('é,' * 15000000).split(',') | length }}",
        "{{ ([0] * 100000) | tojson(indent=10000) }}",
        "{{ (10 ** 9999) * (10 ** 9999) }}",
        "{{ '%999999999s' | format('a') }}",
        "{{ '%.999999999f' | format(1) }}",
        "{{ '%(a)s' | format(a=1) }}",
        "{{ '%s%s' | format('a') }}",
        "{{ ('%s' * 9999) | format(*(['a' * 99999] * 9999)) | length }}",
        "{{ 'a' | indent(999999999) }}",
        "{{ ('a\n' * 9999999) | indent(9999) | length }}",
        "{{ ('a\x0b' * 9999999) | indent('x' * 9999) | length }}",
        "{{ 1 | round(999999999) }}",
        "{{ 'x' | round }}",
        "{{ 1 | round(1, 'sideways') }}",
    ],
)
def test_a_template_that_goes_too_far_is_stopped(source: str) -> None:
    with pytest.raises(BadParameter):
        template(source).render(TURNS)


def test_the_longest_chat_the_door_takes_is_within_the_bounds() -> None:
    source = "{% for m in messages %}{{ m.role + (m.content.split('</think>')[-1] | trim) ~ '\\n' }}{% endfor %}"
    turns = [ChatMessage(role="user", content="word " * 200_000)] * 8
    assert len(template(source).render(turns)) == 8 * (4 + 999_999 + 1)


class HurriedClock(ManualClock):
    """A millisecond passes whenever somebody looks."""

    def monotonic(self) -> float:
        self._now += 0.001
        return self._now


def test_a_template_whose_steps_are_slow_is_stopped_by_the_clock() -> None:
    source = "{% for a in range(9999) %}{% set x = messages | tojson %}{% endfor %}"
    slow = ChatTemplate(source, clock=HurriedClock(), bos_token=None, eos_token=None)
    with pytest.raises(BadParameter, match="more than 2 s"):
        slow.render(TURNS)
    assert template(source).render(TURNS) == ""


@pytest.mark.parametrize(
    "source",
    [
        "{% for %}",
        "{{",
        "{% nonsense %}",
        "{{ x | nofilter }}",
        "{{ x | slice(9) }}",
        "x" * (MAX_TEMPLATE_CHARACTERS + 1),
    ],
)
def test_a_template_that_is_none_makes_chat_not_servable(source: str) -> None:
    with pytest.raises(NotServable, match="template"):
        template(source)
