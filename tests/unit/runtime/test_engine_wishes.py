"""What a request may want beside plain tokens: penalties, constraints, its prompt's log-probabilities, states."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models

from tests.unit.runtime.doubles import VOCAB, Bench, HistoryExecutable, ask, greedy, logits_of, make_bench
from thaloom.base.errors import BadParameter
from thaloom.hal.draws import Draw, Drawn, draw, likeliest
from thaloom.hal.ops import Step
from thaloom.work.runtime.core.choosing import Chooser
from thaloom.work.runtime.core.grammars import Grammars, Matcher
from thaloom.work.runtime.messages import Embed, Finished, Generate, Grammar, PromptLogprobs, State, Tokens
from thaloom.work.runtime.text.tokenizer import Vocabulary, read_vocabulary
from thaloom.work.runtime.types import Sampling

PROMPT = [3, 1, 4, 1, 5]
COUNT = 40
"""Long enough for tokens to come again."""


def bench_of(chunk_tokens: int = 64) -> Bench:
    return make_bench(HistoryExecutable(64), num_blocks=64, chunk_tokens=chunk_tokens)


def answer(**wishes: object) -> list[int]:
    bench = bench_of()
    ticket = bench.submit(ask(PROMPT, COUNT, **wishes))  # type: ignore[arg-type]
    bench.run()
    return bench.tokens(ticket)


def by_hand(count: int, *, frequency: float = 0.0, presence: float = 0.0, repetition: float = 1.0) -> list[int]:
    history = list(PROMPT)
    for _ in range(count):
        logits = logits_of(history).astype(np.float32)
        generated = history[len(PROMPT) :]
        for token in set(history):
            if repetition != 1.0:
                x = logits[token]
                logits[token] = x / np.float32(repetition) if x > 0 else x * np.float32(repetition)
        for token in set(generated):
            logits[token] += np.float32(-frequency * generated.count(token) - presence)
        history.append(int(np.argmax(logits)))
    return history[len(PROMPT) :]


@pytest.mark.parametrize(
    "wish",
    [
        {"frequency": 1.5},
        {"presence": 2.0},
        {"repetition": 3.0},
        {"frequency": 0.7, "presence": -1.0, "repetition": 0.6},
    ],
)
def test_penalties_are_what_they_are_defined_to_be(wish: dict[str, float]) -> None:
    found = answer(**{f"{name}_penalty": value for name, value in wish.items()})
    assert found == by_hand(COUNT, **wish)
    assert found != greedy(PROMPT, COUNT), "a case in which nothing changes shows nothing"


def test_a_bias_can_force_and_forbid_a_token() -> None:
    assert answer(logit_bias=[(7, 100.0)]) == [7] * COUNT
    usual = greedy(PROMPT, 1)[0]
    assert usual not in answer(logit_bias=[(usual, -100.0)])


@pytest.mark.parametrize(
    "wish",
    [
        {"temperature": 0.5},
        {"logprobs": 0},
        {"logit_bias": [(7, 1.0)]},
        {"frequency_penalty": 0.5},
        {"presence_penalty": 0.5},
        {"repetition_penalty": 1.1},
        {"prompt_logprobs": 1},
        {"min_tokens": 2, "stop_tokens": (5,)},
    ],
)
def test_a_step_is_greedy_where_nobody_in_it_wants_more_than_the_likeliest_token(wish: dict[str, Any]) -> None:
    def steps(*requests: Generate) -> list[Step]:
        executable = HistoryExecutable(64)
        bench = make_bench(executable, num_blocks=64, chunk_tokens=64)
        for request in requests:
            bench.submit(request)
        bench.run()
        return executable.steps

    assert all(step.greedy for step in steps(ask(PROMPT, 3)))
    assert not steps(ask(PROMPT, 3), ask(PROMPT[::-1], 3, **wish))[0].greedy


def test_an_answer_does_not_end_before_min_tokens() -> None:
    stops = greedy(PROMPT, 3)[:1]
    bench = bench_of()
    at_once, later = (bench.submit(ask(PROMPT, 12, stop_tokens=stops, min_tokens=count)) for count in (0, 6))
    bench.run()
    assert (bench.tokens(at_once), bench.finished(at_once).completion_tokens) == ([], 1)
    assert len(bench.tokens(later)) >= 6
    assert stops[0] not in bench.tokens(later)[:6]


@pytest.mark.parametrize("chunk_tokens", [1, 7, 64])
def test_a_prompt_tells_its_log_probabilities_once_and_in_order(chunk_tokens: int) -> None:
    prompt = [(7 * i) % VOCAB for i in range(70)]
    bench = bench_of(chunk_tokens=chunk_tokens)
    ticket = bench.submit(ask(prompt, 2, prompt_logprobs=2, logprobs=0))
    beside = bench.submit(ask(prompt, 2))
    bench.run()
    news = bench.news[ticket]
    assert [type(reply) for reply in news[-3:]] == [Tokens, Tokens, Finished]
    rows = [row for reply in news if isinstance(reply, PromptLogprobs) for row in reply.rows]
    assert len(rows) == len(prompt) - 1
    for position, row in enumerate(rows):
        logits = logits_of(prompt[: position + 1]).astype(np.float64)
        logprobs = logits - np.log(np.exp(logits).sum())
        assert row.chosen == pytest.approx(logprobs[prompt[position + 1]], abs=1e-5)
        assert row.top_tokens == likeliest(logits_of(prompt[: position + 1]), 2).tolist()
    assert bench.tokens(beside) == greedy(prompt, 2)


def test_a_prompt_alone_can_be_of_interest() -> None:
    bench = bench_of()
    ticket = bench.submit(ask(PROMPT, 0, prompt_logprobs=0))
    bench.run()
    assert [type(reply) for reply in bench.news[ticket]] == [PromptLogprobs, Finished]
    assert (bench.finished(ticket).reason, bench.finished(ticket).completion_tokens) == ("length", 0)


def test_tokens_asked_about_are_reported_with_each_token() -> None:
    bench = bench_of()
    ticket = bench.submit(ask(PROMPT, 2, logprobs=0, report=[9, 2]))
    bench.run()
    (first, *_) = [row for reply in bench.news[ticket] if isinstance(reply, Tokens) for row in reply.logprobs or []]
    logits = logits_of(PROMPT).astype(np.float64)
    wanted = logits - np.log(np.exp(logits).sum())
    assert first.reported == pytest.approx([wanted[9], wanted[2]], abs=1e-5)


@pytest.mark.parametrize("chunk_tokens", [1, 7, 64])
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_states_are_pooled_over_all_chunks(chunk_tokens: int, pooling: str) -> None:
    """The made-up device's state of a row is its token and its length."""
    prompt = [(11 * i) % VOCAB for i in range(40)]
    bench = bench_of(chunk_tokens=chunk_tokens)
    beside = bench.submit(ask(prompt, 5))
    bench.step()
    ticket = bench.submit(Embed(id="e", prompt=prompt, pooling=pooling))
    bench.run()
    (state,) = bench.news[ticket]
    assert isinstance(state, State)
    found = np.frombuffer(state.values, "<f4").tolist()
    wanted = [np.mean(prompt), 20.5] if pooling == "mean" else [prompt[-1], 40.0]
    assert found == pytest.approx(wanted)
    assert bench.tokens(beside) == greedy(prompt, 5), "an answer beside it"


def test_one_that_is_cancelled_between_the_passes_of_a_step_hurts_nobody_beside_it() -> None:
    """Tokens are the first pass, states the second; who left during the first has no blocks any more."""
    executable = HistoryExecutable(64)
    bench = make_bench(executable, num_blocks=64, chunk_tokens=64)
    answer = bench.submit(ask(PROMPT, 3))
    left = bench.submit(Embed(id="left", prompt=PROMPT, pooling="mean"))
    stays = bench.submit(Embed(id="stays", prompt=PROMPT, pooling="mean"))
    run = executable.run

    def leave_in_the_first(step: Step) -> NDArray[np.float32]:
        if not step.states:
            bench.engine.cancel(left)
        return run(step)

    executable.run = leave_in_the_first  # type: ignore[method-assign]
    bench.run()
    (state,) = bench.news[stays]
    assert isinstance(state, State)
    assert np.frombuffer(state.values, "<f4")[0] == pytest.approx(np.mean(PROMPT))
    assert bench.news.get(left, []) == []
    assert bench.tokens(answer) == greedy(PROMPT, 3)
    assert bench.engine.load().free_blocks == 64


def test_an_unknown_pooling_is_refused() -> None:
    with pytest.raises(BadParameter, match="mean or last"):
        bench_of().engine.submit(Embed(id="e", prompt=[1], pooling="first"))


CHARACTERS = "".join(chr(32 + token) for token in range(VOCAB - 1))
"""What the tokens stand for; the last one is the end."""


def vocabulary() -> Vocabulary:
    vocab = {character: token for token, character in enumerate(CHARACTERS)}
    made = FastTokenizer(models.BPE(vocab=vocab | {"<end>": VOCAB - 1}, merges=[]))
    made.decoder = decoders.Fuse()
    made.add_special_tokens(["<end>"])
    return read_vocabulary(str(made.to_str()).encode(), VOCAB)


GRAMMARS = Grammars(vocabulary, VOCAB)


def matcher(kind: str, text: str) -> Matcher:
    return GRAMMARS.matcher(Grammar(kind=kind, text=text, param="response_format", ends=[VOCAB - 1]))


def written(kind: str, text: str, *, stops: list[int] | None = None, **wishes: object) -> tuple[str, str]:
    """The answer as characters, and why it ended."""
    bench = bench_of()
    request = ask(PROMPT, 40, stop_tokens=[VOCAB - 1] if stops is None else stops, **wishes)  # type: ignore[arg-type]
    ticket = bench.submit(request, matcher(kind, text))
    bench.run()
    return "".join(CHARACTERS[token] for token in bench.tokens(ticket)), bench.finished(ticket).reason


def test_a_constraint_is_kept_from_the_first_token_to_the_end() -> None:
    assert written("regex", "[A-C]{3}-[0-9]{2}")[1] == "stop"
    for seed in range(20):
        text, reason = written("regex", "[A-C]{3}-[0-9]{2}", temperature=1.5, seed=seed)
        assert reason == "stop"
        head, tail = text.split("-")
        assert set(head) <= set("ABC")
        assert len(head) == 3
        assert tail.isdigit()
        assert len(tail) == 2


class DrawingExecutable(HistoryExecutable):
    """Also driver.SamplesNatively, by the definition."""

    def __init__(self, num_blocks: int) -> None:
        super().__init__(num_blocks)
        self.again: list[list[int]] = []
        """The rows of each call for second draws."""

    def run(self, step: Step) -> NDArray[np.float32]:
        self.result = super().run(step)
        return self.result

    def draw(self, draws: Sequence[Draw]) -> list[Drawn]:
        return [draw(row, each) for row, each in zip(self.result, draws, strict=True)]

    def redraw(self, rows: Sequence[int], draws: Sequence[Draw]) -> list[Drawn]:
        self.again.append(list(rows))
        return [draw(self.result[row], each) for row, each in zip(rows, draws, strict=True)]


def test_refused_tokens_of_one_step_are_drawn_again_together() -> None:
    executable = DrawingExecutable(64)
    bench = make_bench(executable, num_blocks=64, chunk_tokens=64)
    constraints = (None, "[A-C]{9}", "[0-9]{5}X", "[A-E]{12}")
    tickets = [
        bench.submit(
            ask(PROMPT, 12, id=f"r{seed}", temperature=1.0, seed=seed, stop_tokens=[VOCAB - 1]),
            matcher("regex", constraint) if constraint else None,
        )
        for seed, constraint in enumerate(constraints)
    ]
    bench.run()
    for seed, (ticket, constraint) in enumerate(zip(tickets, constraints, strict=True)):
        if constraint:
            text = "".join(CHARACTERS[token] for token in bench.tokens(ticket))
            assert text == written("regex", constraint, temperature=1.0, seed=seed)[0], "not as by itself"
    assert max(map(len, executable.again)) == 3
    assert len(executable.again) <= len(executable.steps)


def test_what_follows_a_refused_token_is_as_likely_as_among_the_allowed_ones() -> None:
    """Against the model's own probabilities, what is not allowed left out: Pearson's chi-square, 20,000 answers."""
    logits = logits_of(PROMPT).astype(np.float32)
    allowed = [CHARACTERS.index(character) for character in "ABCDE"]
    constraint = matcher("regex", "[A-E]x")
    counts = dict.fromkeys(allowed, 0)
    num_spare = num_second = 0
    for seed in range(20_000):
        chooser = Chooser(ask(PROMPT, 2), Sampling(seed=seed), vocab_size=VOCAB, matcher=constraint)
        first = draw(logits, chooser.wish(5))
        decided = chooser.permitted(5, first)
        num_second += isinstance(decided, Draw)
        num_spare += isinstance(decided, Drawn) and decided is not first
        counts[(draw(logits, decided) if isinstance(decided, Draw) else decided).token] += 1
    weights = np.exp(logits[allowed].astype(np.float64))
    wanted = 20_000 * weights / weights.sum()
    distance = sum((counts[token] - want) ** 2 / want for token, want in zip(allowed, wanted, strict=True))
    assert min(num_spare, num_second) > 1000, "a case in which one of the ways is never gone shows nothing"
    assert num_spare + num_second < 19_900
    assert distance < 18.5, "one in a thousand with four degrees of freedom"


@pytest.mark.parametrize("filters", [{"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.2}])
def test_filters_count_what_the_model_says_and_where_that_is_refused_what_is_allowed(filters: dict[str, float]) -> None:
    logits = logits_of(PROMPT).astype(np.float32)
    order = [int(token) for token in np.argsort(-logits, kind="stable") if token < len(CHARACTERS)]
    for first, last in ((0, 3), (len(order) - 3, len(order))):  # the likeliest tokens, then the least likely
        characters = "".join(re.escape(CHARACTERS[token]) for token in order[first:last])
        constraint = matcher("regex", f"[{characters}]x")
        chooser = Chooser(ask(PROMPT, 2), Sampling(seed=1, **filters), vocab_size=VOCAB, matcher=constraint)
        wish = chooser.wish(5)
        assert wish.allowed is None
        decided = chooser.permitted(5, draw(logits, wish))
        assert first == 0 or isinstance(decided, Draw), "what the model would never say was not asked for"
        if isinstance(decided, Draw):
            decided = draw(logits, decided)
        assert decided.token in order[first:last]


def test_the_likeliest_allowed_token_is_taken_whichever_is_the_likeliest_of_all() -> None:
    history, text = list(PROMPT), ""
    while len(text) < 12:
        logits = logits_of(history).astype(np.float32)
        row = {character: logits[CHARACTERS.index(character)] for character in "ABC"}
        text += max(row, key=lambda character: row[character])
        history.append(CHARACTERS.index(text[-1]))
    assert written("regex", "[A-C]{12}")[0] == text


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("regex", "[A-C]{1,3}(-[0-9]+)?"),
        ("json_schema", '{"type": "array", "items": {"type": "string", "maxLength": 3}}'),
    ],
)
def test_a_token_asked_about_is_permitted_where_the_mask_has_it(kind: str, text: str) -> None:
    constraint = matcher(kind, text)
    rng = np.random.default_rng(1)
    for _ in range(30):
        bits = np.unpackbits(constraint.allowed().view(np.uint8), bitorder="little")[:VOCAB]
        assert bits.tolist() == [constraint.permits(token) for token in range(VOCAB)]
        constraint.take(int(rng.choice(np.flatnonzero(bits))))
        if constraint.complete:
            break


def test_an_answer_that_can_only_end_ends_even_without_stop_tokens() -> None:
    assert written("choice", '["AB", "CD"]', stops=[]) in {("AB", "stop"), ("CD", "stop")}
    assert written("choice", '["AB", "CD"]', min_tokens=4)[1] == "stop", "there is no way to be longer"


def test_a_schema_and_a_grammar() -> None:
    text, reason = written("json_schema", json.dumps({"type": "integer", "minimum": 10, "maximum": 99}))
    assert (reason, 10 <= int(text) <= 99) == ("stop", True)
    assert written("lark", 'start: "X" /[0-9]/ "Y"')[0][::2] == "XY"
    assert written("gbnf", 'root ::= "YES" | "NO"')[0] in ("YES", "NO")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("regex", "("),
        ("regex", "(?=look)"),
        ("json_schema", "[]"),
        ("json_schema", "{"),
        ("json_schema", '{"type": "nonsense"}'),
        ("json_schema", '{"$ref": "#/nowhere"}'),
        ("choice", "[]"),
        ("choice", "[1]"),
        ("lark", "start: nowhere"),
        ("gbnf", "root := wrong"),
        ("gbnf", "root ::= nowhere"),
        ("lark", "x" * 300_000),
        ("regex", "((A{99}){99}){99}"),
        ("regex", "A{2147483647}"),
        ("json_schema", json.dumps({"type": "string", "pattern": "^(((A{99}){99}){99}){99}$"})),
    ],
)
def test_what_cannot_be_followed_is_refused_by_the_callers_word(kind: str, text: str) -> None:
    with pytest.raises(BadParameter, match="response_format cannot be followed") as caught:
        matcher(kind, text)
    assert caught.value.param == "response_format"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("regex", "(a{1,1000}){1,1000}"),
        ("regex", "(" * 5000 + "a" + ")*" * 5000),
        ("regex", "(a|b|ab)*" * 3000),
        ("json_schema", json.dumps({"type": "array", "minItems": 10**9, "items": {"type": "string"}})),
        ("json_schema", json.dumps({"type": "string", "minLength": 10**7})),
        ("json_schema", json.dumps({"enum": [f"{i:06}" for i in range(20_000)]})),
        ("json_schema", '{"anyOf":[' * 150 + "{}" + "]}" * 150),
        ("json_schema", json.dumps({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}})),
    ],
)
def test_what_explodes_is_refused_or_followed_but_does_not_hang(kind: str, text: str) -> None:
    with contextlib.suppress(BadParameter):
        made = matcher(kind, text)
        for _ in range(8):
            allowed = made.allowed()
            token = int(np.flatnonzero(np.unpackbits(allowed.view(np.uint8), bitorder="little"))[0])
            made.permits(token + 1)
            made.take(token)
            if made.complete:
                break
