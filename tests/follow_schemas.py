"""Random JSON schemas and grammars, each asked of the bundled model through a real node's door: is every answer valid?

    python -m tests.follow_schemas --schemas 1000 --seed 1     (make schemas)
    python -m tests.follow_schemas --seed 1 --only 17

Answers are drawn with a temperature, so that the model says what it likes and only the mask holds it. An answer that
ends by itself must be JSON and valid by jsonschema-rs, which shares nothing with what made the mask; of a name that is
free and there twice, the last counts, as for most parsers, and it is told how many such answers there were. One that
is cut for its length must be the beginning of a valid one: it is finished, and then valid too. A schema may be refused
only by a keyword of its own; one in fifty is of a kind that must be refused. Beside the schemas there are small
languages (`--grammars`), said as an expression, a Lark grammar or a GBNF grammar: Python's `re` judges, and none may be
refused.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import jsonschema_rs

from tests.finished import finish
from tests.fuzz_door.node import running_node
from tests.random_grammars import FIELDS, KINDS, Kind, random_language
from tests.random_schemas import keywords, random_schema

AT_ONCE = 16
MAX_TOKENS = 600
SILENCE_S = 120.0


class NotValid(Exception):
    """What must not be."""


@dataclass(frozen=True, slots=True)
class Question:
    request: dict[str, Any]
    judge: Callable[[httpx2.Response, Found], str]
    """The outcome in a word. Raises NotValid."""
    told: str
    """What is shown of it if that was wrong."""


@dataclass(slots=True)
class Found:
    outcomes: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    """By what was said."""
    tokens: list[int] = field(default_factory=list)
    """Of the answers that ended by themselves."""
    failures: list[str] = field(default_factory=list)


def ask(chance: random.Random, number: int, **wish: Any) -> dict[str, Any]:
    return {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Tell me about a cat, in JSON."}],
        "temperature": chance.choice((0.7, 1.0, 1.3)),
        "seed": number,
        "max_tokens": MAX_TOKENS,
        **wish,
    }


def ask_schema(seed: int, number: int) -> Question:
    chance = random.Random(f"{seed} {number}")
    schema = random_schema(chance)
    form = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    request = ask(chance, number, response_format=form)
    return Question(request, functools.partial(judge_schema, schema), json.dumps(schema))


def ask_grammar(seed: int, number: int) -> Question:
    chance = random.Random(f"grammar {seed} {number}")
    language, kind = random_language(chance), chance.choice(KINDS)
    request = ask(chance, number, **{FIELDS[kind]: language.texts[kind]})
    return Question(request, functools.partial(judge_grammar, language.judge, kind), language.texts[kind])


async def follow(questions: Iterator[Question], url: str) -> Found:
    found = Found()

    async def work(client: httpx2.AsyncClient) -> None:
        for question in questions:
            response = await client.post("/v1/chat/completions", json=question.request)
            try:
                found.outcomes[question.judge(response, found)] += 1
            except NotValid as error:
                found.outcomes["not valid"] += 1
                found.failures.append(f"{question.request['seed']}: {error}\n  {question.told}")

    asking = httpx2.AsyncClient(base_url=url, timeout=SILENCE_S, trust_env=False)
    async with asking as client, asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work(client))
    return found


def judge_grammar(pattern: str, kind: Kind, response: httpx2.Response, found: Found) -> str:
    if response.status_code != 200:
        raise NotValid(response.text)
    answer = response.json()
    (choice,) = answer["choices"]
    text, reason = choice["message"]["content"], choice["finish_reason"]
    if reason == "length":
        return f"{kind} cut"
    if reason != "stop" or re.fullmatch(pattern, text) is None:
        raise NotValid(f"{reason}: {text!r} is not in {pattern!r}")
    found.tokens.append(answer["usage"]["completion_tokens"])
    return f"{kind} valid"


def judge_schema(schema: dict[str, Any], response: httpx2.Response, found: Found) -> str:
    if response.status_code != 200:
        return judge_refusal(schema, response, found)
    answer = response.json()
    (choice,) = answer["choices"]
    text, reason = choice["message"]["content"], choice["finish_reason"]
    if reason == "length":
        judge_beginning(schema, text)
        return "cut"
    if reason != "stop":
        raise NotValid(f"ended by {reason!r}")
    found.outcomes["valid, of them with a name twice"] += judge_answer(schema, text)
    found.tokens.append(answer["usage"]["completion_tokens"])
    return "valid"


def judge_refusal(schema: dict[str, Any], response: httpx2.Response, found: Found) -> str:
    """It names a keyword of the schema: `keywords` are what may be named."""
    error = response.json()["error"]
    if (response.status_code, error["code"], error["param"]) != (400, "bad_parameter", "response_format"):
        raise NotValid(f"{response.status_code} {error}")
    named = sorted(set(re.findall(r"[A-Za-z$]+", error["message"])) & keywords(schema))
    if not named:
        raise NotValid(f"refused without a reason of its own: {error['message']}")
    found.refused[error["message"]] += 1
    return "refused"


def judge_answer(schema: dict[str, Any], text: str) -> bool:
    """Whether a name is there twice. No mask that follows a grammar can tell; JSON leaves open what it means."""
    twice: list[str] = []

    def to_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice.extend(name for name in names if names.count(name) > 1)
        return dict(pairs)

    try:
        value = json.loads(text, object_pairs_hook=to_dict, parse_constant=_refuse, parse_float=_finite)
    except ValueError as error:
        raise NotValid(f"no JSON ({error}): {text!r}") from error
    for fault in jsonschema_rs.Draft202012Validator(schema, validate_formats=True).iter_errors(value):
        raise NotValid(f"{fault.message[:300]} at {fault.instance_path}: {text!r}")
    return bool(twice)


def judge_beginning(schema: dict[str, Any], text: str) -> None:
    """A half character at its end is no fault of it."""
    whole = finish(schema, text.rstrip("\ufffd"))
    if whole is None:
        raise NotValid(f"nothing valid begins so: {text!r}")
    judge_answer(schema, whole)


def _finite(text: str) -> float:
    """JSON's numbers have no bound, and those of the judge do."""
    return max(-sys.float_info.max, min(sys.float_info.max, float(text)))


def _refuse(word: str) -> None:
    raise ValueError(word)


def run(numbers: range, grammars: range, seed: int) -> dict[str, Any]:
    """The record; `failures` in it are what must not be."""
    with running_node(context_length=1024) as node:
        begun = time.monotonic()
        found = asyncio.run(follow((ask_schema(seed, number) for number in numbers), node.url))
        duration_s = time.monotonic() - begun
        beside = asyncio.run(follow((ask_grammar(seed, number) for number in grammars), node.url))
    asked = len(numbers) - found.outcomes["refused"]
    return {
        "seed": seed, "schemas": len(numbers), "at_once": AT_ONCE, "max_tokens": MAX_TOKENS,
        "duration_s": round(duration_s, 1), "outcomes": dict(found.outcomes),
        "ended_by_themselves": round(found.outcomes["valid"] / max(1, asked), 4),
        "tokens_mean": round(sum(found.tokens) / max(1, len(found.tokens)), 1), "refused": dict(found.refused),
        "grammars": len(grammars), "grammar_outcomes": dict(beside.outcomes),
        "failures": [*found.failures, *(f"grammar {failure}" for failure in beside.failures)],
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schemas", type=int, default=1000)
    parser.add_argument("--grammars", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="the number of one schema and one grammar")
    parser.add_argument("--record", action="store_true", help="write benchmarks/records/<date>-schemas.json")
    parser.add_argument("--note", default="", help="for the record")
    given = parser.parse_args()
    one = None if given.only is None else range(given.only, given.only + 1)
    record = run(one or range(given.schemas), one or range(given.grammars), given.seed)
    if given.record:
        sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
        from benchmarks.node import machine, write_record

        write_record("schemas", {**machine(), "note": given.note, "load_average": os.getloadavg(), **record})
    else:
        print(json.dumps(record, indent=1))
    return 1 if record["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
