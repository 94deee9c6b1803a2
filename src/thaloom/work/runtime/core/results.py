"""From the result of a pass to what each work in it wanted: tokens, log-probabilities of a prompt, states."""

from __future__ import annotations

from collections.abc import Sequence as Sequence_

import numpy as np
from numpy.typing import NDArray

from thaloom.base.errors import ThaloomError
from thaloom.hal.draws import Draw, Drawn
from thaloom.hal.driver import Executable
from thaloom.work.runtime.core.batch import Work
from thaloom.work.runtime.core.sampling import draw_again, draw_all, refusal, wish
from thaloom.work.runtime.core.sequence import Sequence
from thaloom.work.runtime.messages import LogprobRow
from thaloom.work.runtime.types import Sampling

Chosen = list[Drawn | ThaloomError]
"""Of one sequence in one step: tokens in order; an error, if there is one, is the last."""
Found = tuple[list[LogprobRow], Chosen] | NDArray[np.float32]
"""Of one sequence in one step: of its prompt's tokens, and the next ones; or its states, (rows, D)."""
_GREEDY = Sampling(temperature=0.0)


def results_of(executable: Executable, work: Sequence_[Work], result: NDArray[np.float32]) -> list[Found]:
    """What every work wanted of the result. Reads nothing that changes meanwhile: no lock is held."""
    if work[0].sequence.pooling is not None:
        ends = np.cumsum([item.num_outputs for item in work])
        return list(np.split(result, ends[:-1]))
    wishes: list[Draw] = []
    refused: dict[int, ThaloomError] = {}
    for index, item in enumerate(work):
        wishes += [_report(item.sequence, position) for position in item.reported]
        try:
            wishes += [
                item.sequence.chooser.wish(item.end + ahead) for ahead in range(item.num_outputs - len(item.reported))
            ]
        except ThaloomError as error:  # its constraint became too complex: its row is drawn all the same, for nobody
            refused[index] = error
            wishes += [Draw()] * item.num_outputs
    drawn = list(draw_all(executable, result, wishes)) if wishes else []
    _draw_again(executable, work, result, drawn, refused)
    found: list[Found] = []
    end = 0
    for index, item in enumerate(work):
        begin, end = end, end + item.num_outputs
        try:
            if index in refused:
                raise refused[index]
            reported = _reported(item, drawn[begin : end - item.num_drawn])
        except ThaloomError as error:
            found.append(([], [error]))
        else:
            found.append((reported, _keep(item, drawn[end - item.num_drawn : end])))
    return found


def _draw_again(
    executable: Executable,
    work: Sequence_[Work],
    result: NDArray[np.float32],
    drawn: list[Drawn],
    refused: dict[int, ThaloomError],
) -> None:
    """Where a constraint does not let the token follow that was drawn, another in its place; those that need another
    draw in one call, for the driver's threads share them. What cannot be answered is added to `refused`."""
    rows: list[int] = []
    wishes: list[Draw] = []
    end = 0
    for index, item in enumerate(work):
        end += item.num_outputs
        row = end - item.num_drawn
        if not item.num_drawn or index in refused:
            continue
        try:
            decided = item.sequence.chooser.permitted(item.end, drawn[row])
        except ThaloomError as error:
            refused[index] = error
            continue
        if isinstance(decided, Drawn):
            drawn[row] = decided
        else:
            rows.append(row)
            wishes.append(decided)
    if rows:
        for row, found in zip(rows, draw_again(executable, result, rows, wishes), strict=True):
            drawn[row] = found


def _report(sequence: Sequence, position: int) -> Draw:
    """What the row of a prompt's `position` says of the token that follows there."""
    return wish(
        _GREEDY, position=position, num_top=sequence.request.prompt_logprobs, report=(sequence.tokens[position + 1],)
    )


def _reported(item: Work, drawn: Sequence_[Drawn]) -> list[LogprobRow]:
    """Raises InternalError where the model gave no numbers."""
    for each, position in zip(drawn, item.reported, strict=True):
        if (odd := refusal(each, position)) is not None:
            raise odd
    return [
        LogprobRow(
            chosen=each.logprobs.reported[0],
            top_tokens=list(each.logprobs.top_tokens),
            top_logprobs=list(each.logprobs.top_logprobs),
        )
        for each in drawn
        if each.logprobs is not None
    ]


def _keep(item: Work, drawn: list[Drawn]) -> Chosen:
    """Of the tokens drawn from position `end` on: one, and for each guess that was right one more, until a stop token.
    What was drawn after a wrong guess means nothing."""
    chosen: Chosen = []
    for index, found in enumerate(drawn):
        chosen.append(refusal(found, item.end + index) or found)
        if item.draft[index : index + 1] != (found.token,) or found.token in item.sequence.stop_tokens:
            break
    return chosen


def rows_of(choices: list[Drawn]) -> list[LogprobRow] | None:
    rows = [
        LogprobRow(
            chosen=row.chosen,
            top_tokens=list(row.top_tokens),
            top_logprobs=list(row.top_logprobs),
            reported=list(row.reported),
        )
        for row in (choice.logprobs for choice in choices)
        if row is not None
    ]
    return rows or None
