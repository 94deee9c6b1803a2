"""The engine on a device that knows only histories."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from tests.unit.runtime.doubles import VOCAB, Bench, HistoryExecutable, ask, greedy, logits_of, lost, make_bench
from thaloom.base.errors import BadParameter, PromptTooLong, QueueFull
from thaloom.hal.ops import BLOCK_TOKENS
from thaloom.work.runtime.events import StepFailed
from thaloom.work.runtime.messages import Tokens


def bench(num_blocks: int = 64, **settings: int | bool) -> tuple[Bench, HistoryExecutable]:
    executable = HistoryExecutable(num_blocks)
    return make_bench(executable, num_blocks=num_blocks, **settings), executable


def test_answers_with_the_likeliest_tokens_and_an_account() -> None:
    engine, _ = bench()
    ticket = engine.submit(ask([1, 2, 3], 5))
    engine.run()
    assert engine.tokens(ticket) == greedy([1, 2, 3], 5)
    finished = engine.finished(ticket)
    assert (finished.reason, finished.prompt_tokens, finished.completion_tokens) == ("length", 3, 5)
    assert engine.engine.load().free_blocks == 64


def test_a_stop_token_ends_the_answer_and_is_counted_but_not_sent() -> None:
    engine, _ = bench()
    answer = greedy([1, 2, 3], 6)
    stop = answer[3]
    before = answer.index(stop)
    ticket = engine.submit(ask([1, 2, 3], 6, stop_tokens=[stop, 9999]))
    engine.run()
    assert engine.tokens(ticket) == answer[:before]
    assert engine.finished(ticket).reason == "stop"
    assert engine.finished(ticket).completion_tokens == before + 1


def test_prefill_is_cut_into_chunks_and_decoding_goes_on_meanwhile() -> None:
    engine, executable = bench(chunk_tokens=8)
    first = engine.submit(ask([5, 6], 12))
    engine.step(2)
    second = engine.submit(ask(list(range(30)), 2))
    engine.run()
    assert engine.tokens(first) == greedy([5, 6], 12)
    assert engine.tokens(second) == greedy(list(range(30)), 2)
    prefill = [int((step.sequences == 1).sum()) for step in executable.steps[2:6]]
    assert prefill == [8, 8, 8, 6]
    assert all(step.sequences[0] == 0 and int((step.sequences == 0).sum()) == 1 for step in executable.steps[2:6])


def test_a_prompt_seen_before_is_not_computed_again_but_for_its_last_token() -> None:
    engine, executable = bench(chunk_tokens=64)
    prompt = [token % VOCAB for token in range(3 * BLOCK_TOKENS)]
    first = engine.submit(ask(prompt, 3))
    engine.run()
    steps = len(executable.steps)
    second = engine.submit(ask(prompt, 3))
    engine.run()
    assert engine.tokens(first) == engine.tokens(second) == greedy(prompt, 3)
    assert engine.finished(first).cached_tokens == 0
    assert engine.finished(second).cached_tokens == 2 * BLOCK_TOKENS
    assert executable.steps[steps].num_rows == BLOCK_TOKENS
    assert engine.engine.counters.cached_tokens == 2 * BLOCK_TOKENS


def test_an_answer_is_reused_as_part_of_the_next_prompt() -> None:
    engine, _ = bench(chunk_tokens=64)
    first = engine.submit(ask([7] * 10, 40))
    engine.run()
    prompt = [7] * 10 + engine.tokens(first) + [1, 2]
    second = engine.submit(ask(prompt, 2))
    engine.run()
    assert engine.finished(second).cached_tokens == 48, "49 of the 50 tokens were computed: 3 full blocks"
    assert engine.tokens(second) == greedy(prompt, 2)


def test_prefixes_are_shared_among_those_of_one_salt_alone() -> None:
    """Else whoever has the time to a first token could tell what somebody else has asked."""
    engine, _ = bench(chunk_tokens=64)
    found = []
    for salt in ("", "mine", "theirs", "mine", ""):
        ticket = engine.submit(msgspec.structs.replace(ask([1] * 40, 2), cache_salt=salt))
        engine.run()
        assert engine.tokens(ticket) == greedy([1] * 40, 2)
        found.append(engine.finished(ticket).cached_tokens)
    assert found == [0, 0, 0, 2 * BLOCK_TOKENS, 2 * BLOCK_TOKENS]


def test_without_prefix_reuse_nothing_is_found() -> None:
    engine, _ = bench(prefix_reuse=False)
    for _ in range(2):
        ticket = engine.submit(ask([1] * 40, 2))
        engine.run()
        assert engine.finished(ticket).cached_tokens == 0
    assert engine.engine.load().cached_blocks == 0


def test_a_pool_too_small_for_all_preempts_the_youngest_and_changes_no_token() -> None:
    engine, _ = bench(num_blocks=7, chunk_tokens=64, prefix_reuse=False)
    prompts = [[number] * 20 for number in (1, 2, 3)]
    tickets = [engine.submit(ask(prompt, 50)) for prompt in prompts]
    engine.run()
    assert engine.engine.counters.preemptions > 0
    for ticket, prompt in zip(tickets, prompts, strict=True):
        assert engine.tokens(ticket) == greedy(prompt, 50)
    assert engine.engine.counters.prompt_tokens == 60, "a preempted prompt is counted once"


def test_where_requests_wait_the_urgent_come_first_and_answers_stay_the_same() -> None:
    engine, _ = bench(max_sequences=1)
    running = engine.submit(ask([9], 4))
    engine.step(1)
    tickets = {rank: engine.submit(ask([rank, 3], 4, rank=rank)) for rank in (2, 1, 0)}
    ended: list[int] = []
    while engine.engine.busy:
        engine.step()
        ended += [rank for rank, ticket in tickets.items() if rank not in ended and engine.ended(ticket)]
    assert ended == [0, 1, 2]
    assert engine.tokens(running) == greedy([9], 4)
    for rank, ticket in tickets.items():
        assert engine.tokens(ticket) == greedy([rank, 3], 4)


def test_sampling_survives_preemption() -> None:
    def answers(num_blocks: int) -> list[list[int]]:
        engine, _ = bench(num_blocks=num_blocks, chunk_tokens=64)
        tickets = [engine.submit(ask([number] * 20, 50, temperature=1.5, seed=number)) for number in (1, 2, 3)]
        engine.run()
        return [engine.tokens(ticket) for ticket in tickets]

    assert answers(7) == answers(64)


def test_first_tokens_carry_what_the_beginning_cost() -> None:
    engine, _ = bench()
    ticket = engine.submit(ask([1], 2))
    engine.run()
    first, second = (reply for reply in engine.news[ticket] if isinstance(reply, Tokens))
    assert first.started is not None
    assert first.started.cached_tokens == 0
    assert second.started is None


def test_logprobs_come_with_their_tokens() -> None:
    engine, _ = bench()
    ticket = engine.submit(ask([1, 2], 3, logprobs=2))
    engine.run()
    rows = [row for reply in engine.news[ticket] if isinstance(reply, Tokens) for row in reply.logprobs or []]
    assert [row.top_tokens[0] for row in rows] == greedy([1, 2], 3)
    assert all(row.chosen == row.top_logprobs[0] > row.top_logprobs[1] for row in rows)


class TestRefusals:
    def test_too_long_names_both_lengths(self) -> None:
        engine, _ = bench(context_length=32)
        with pytest.raises(PromptTooLong) as caught:
            engine.engine.submit(ask([1] * 30, 3))
        assert caught.value.details == {"prompt_tokens": 30, "max_tokens": 3, "context_length": 32}
        assert caught.value.param == "max_tokens"
        with pytest.raises(PromptTooLong) as caught:
            engine.engine.submit(ask([1] * 33, 1))
        assert caught.value.param == "prompt"
        engine.submit(ask([1] * 29, 3))

    def test_what_the_pool_can_never_hold_is_refused_at_once(self) -> None:
        engine, _ = bench(num_blocks=2)
        with pytest.raises(PromptTooLong) as caught:
            engine.engine.submit(ask([1] * 30, 4))
        assert caught.value.details["context_length"] == 32
        ticket = engine.submit(ask([1] * 30, 3))  # the last token is never computed: 32 places
        engine.run()
        assert len(engine.tokens(ticket)) == 3

    @pytest.mark.parametrize(
        ("changes", "param"),
        [
            ({"prompt": []}, "prompt"),
            ({"prompt": [1, VOCAB]}, "prompt"),
            ({"prompt": [-1]}, "prompt"),
            ({"max_tokens": -1}, "max_tokens"),
            ({"min_tokens": 2}, "min_tokens"),
            ({"min_tokens": -1}, "min_tokens"),
            ({"logit_bias": [(VOCAB, 1.0)]}, "logit_bias"),
            ({"logit_bias": [(0, 101.0)]}, "logit_bias"),
            ({"report": [-1]}, "report"),
            ({"prompt_logprobs": 21}, "prompt_logprobs"),
            ({"frequency_penalty": 2.1}, "frequency_penalty"),
            ({"presence_penalty": float("nan")}, "presence_penalty"),
            ({"repetition_penalty": 0.0}, "repetition_penalty"),
            ({"logprobs": 21}, "logprobs"),
            ({"logprobs": -1}, "logprobs"),
            ({"temperature": -0.5}, "temperature"),
            ({"temperature": float("nan")}, "temperature"),
            ({"top_p": 0.0}, "top_p"),
            ({"top_k": -1}, "top_k"),
            ({"min_p": 1.5}, "min_p"),
        ],
    )
    def test_a_wrong_field_is_named(self, changes: dict[str, object], param: str) -> None:
        engine, _ = bench()
        fields: dict[str, object] = {"prompt": [1], "max_tokens": 1} | changes
        with pytest.raises(BadParameter) as caught:
            engine.engine.submit(ask(**fields))
        assert caught.value.param == param
        assert not engine.engine.busy

    def test_a_full_queue_says_when_to_come_back(self) -> None:
        engine, _ = bench(max_sequences=2, max_queue=1)
        for _ in range(3):
            engine.submit(ask([1], 10))
        with pytest.raises(QueueFull) as caught:
            engine.engine.submit(ask([1], 10))
        assert caught.value.retry_after_s == 1.0, "nothing is measured yet"
        assert engine.engine.counters.requests == 3
        engine.run()
        engine.submit(ask([1], 10))


class TestCancel:
    def test_while_waiting(self) -> None:
        engine, _ = bench(max_sequences=1)
        first, second = engine.submit(ask([1], 3)), engine.submit(ask([2], 3))
        engine.step()
        assert engine.engine.cancel(second)
        assert not engine.engine.cancel(second)
        engine.run()
        assert engine.tokens(first) == greedy([1], 3)
        assert engine.news[second] == []
        assert engine.engine.counters.cancelled == 1

    @pytest.mark.parametrize("steps", [1, 2, 5, 6])
    def test_while_running_frees_its_blocks_at_once(self, steps: int) -> None:
        engine, _ = bench(chunk_tokens=16)
        ticket = engine.submit(ask([1] * 60, 9))
        engine.step(steps)
        assert engine.engine.load().free_blocks < 64
        assert engine.engine.cancel(ticket)
        assert engine.engine.load().free_blocks == 64
        assert not engine.engine.busy
        engine.engine.check()

    def test_in_the_middle_of_a_step_keeps_nothing_of_it(self) -> None:
        engine, executable = bench(chunk_tokens=64)
        ticket = engine.submit(ask([1] * 40, 9))
        other = engine.submit(ask([2] * 20, 3))
        run = executable.run

        def cancel_inside(step):
            engine.engine.cancel(ticket)
            return run(step)

        executable.run = cancel_inside
        news = engine.step()
        executable.run = run
        assert {emission[0] for emission in news} == {other}
        engine.run()
        assert engine.tokens(other) == greedy([2] * 20, 3)
        assert engine.engine.load().cached_blocks == 1, "only the other's full block was published"

    def test_after_its_end(self) -> None:
        engine, _ = bench()
        ticket = engine.submit(ask([1], 1))
        engine.run()
        assert not engine.engine.cancel(ticket)

    def test_while_preempted(self) -> None:
        engine, _ = bench(num_blocks=4, chunk_tokens=64)
        first, second = engine.submit(ask([1] * 20, 40)), engine.submit(ask([2] * 20, 40))
        while not engine.engine.counters.preemptions:
            engine.step()
        assert engine.engine.cancel(second)
        engine.run()
        assert engine.tokens(first) == greedy([1] * 20, 40)
        assert 0 < len(engine.tokens(second)) < 40


class TestFailures:
    def test_a_step_that_raises_fails_the_requests_in_it_and_nobody_else(self) -> None:
        engine, executable = bench(max_sequences=1)
        first, second = engine.submit(ask([1], 3, id="one")), engine.submit(ask([2], 3, id="two"))
        executable.next_errors.append(ValueError("no such row"))
        engine.step()
        assert engine.failed(first)["code"] == "internal_error"
        assert "no such row" in str(engine.failed(first)["message"])
        engine.run()
        assert engine.tokens(second) == greedy([2], 3)
        (event,) = engine.events.of(StepFailed)
        assert dataclasses.asdict(event)["requests"] == ("one",)
        assert engine.engine.counters.failed_steps == engine.engine.counters.failed == 1
        assert engine.engine.lost is None

    def test_a_lost_device_fails_everybody(self) -> None:
        engine, executable = bench(max_sequences=1)
        tickets = [engine.submit(ask([1], 3)), engine.submit(ask([2], 3))]
        executable.next_errors.append(lost())
        engine.step()
        assert [engine.failed(ticket)["code"] for ticket in tickets] == ["device_lost", "device_lost"]
        assert engine.engine.lost is not None
        assert engine.engine.load().free_blocks == 64

    def test_logits_that_are_not_finite_fail_that_request_only(self) -> None:
        engine, executable = bench()
        executable.poisoned = {7}
        sick, well = engine.submit(ask([1, 7], 3)), engine.submit(ask([2, 3], 1))
        engine.run()
        assert engine.failed(sick)["code"] == "internal_error"
        assert engine.failed(sick)["details"] == {"position": 2}
        assert engine.tokens(well) == greedy([2, 3], 1)

    def test_a_failed_step_publishes_nothing(self) -> None:
        engine, executable = bench(chunk_tokens=64)
        executable.next_errors.append(RuntimeError("torn"))
        engine.submit(ask([1] * 40, 2))
        engine.step()
        assert engine.engine.load().cached_blocks == 0


def test_the_double_itself_tells_histories_apart() -> None:
    assert greedy([1, 2, 3], 8) != greedy([1, 2, 4], 8)
    assert not (logits_of([1, 2]) == logits_of([2, 1])).any()
