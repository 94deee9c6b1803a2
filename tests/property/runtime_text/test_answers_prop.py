"""One answer's text and log-probabilities belong together, however tokens and stop strings fall."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.property.runtime_text.test_stops_prop import plainly
from tests.unit.runtime_text.tokenizers_of_the_field import byte_level, save
from thaloom.work.runtime.frontend.answers import AnswerText
from thaloom.work.runtime.messages import LogprobRow, Tokens
from thaloom.work.runtime.text.tokenizer import Tokenizer, read_text_files

with tempfile.TemporaryDirectory() as folder:
    TOKENIZER = Tokenizer(read_text_files(save(Path(folder), byte_level())))


@given(
    st.text("ab世é", max_size=20),
    st.lists(st.text("ab世é", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(1, 5), min_size=1, max_size=5),
)
def test_logprobs_cover_the_text_shown_and_nothing_that_was_cut(text: str, stops: list[str], sizes: list[int]) -> None:
    tokens = TOKENIZER.encode_rendered(text)
    answer = AnswerText(TOKENIZER, stop=stops, at_start=True)
    deltas, at = [], 0
    while at < len(tokens) and not answer.stopped:
        some = tokens[at : at + sizes[len(deltas) % len(sizes)]]
        at += len(some)
        rows = [LogprobRow(chosen=-1.0, top_tokens=[], top_logprobs=[]) for _ in some]
        deltas.append(answer.feed(Tokens(tokens=some, logprobs=rows)))
        shown = "".join(delta.text for delta in deltas)
        told = b"".join(entry.chosen.data for delta in deltas for entry in delta.logprobs)
        assert told.decode(errors="ignore").startswith(shown)
    if not answer.stopped:
        deltas.append(answer.finish())
    shown = "".join(delta.text for delta in deltas)
    assert (shown, answer.stopped) == plainly(text, stops)
    chosen = [entry.chosen.token for delta in deltas for entry in delta.logprobs]
    assert chosen == tokens[: len(chosen)]
    if answer.stopped:
        data = [TOKENIZER.token_bytes(token) for token in chosen]
        assert b"".join(data).decode(errors="ignore").startswith(shown)
        assert len(b"".join(data[:-1]).decode(errors="ignore")) < len(shown) or not chosen
    else:
        assert chosen == tokens
    assert sum(delta.num_tokens for delta in deltas) == answer.num_tokens
