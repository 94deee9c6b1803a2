"""What an engine counts, and how full it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class EngineCounters:
    """All grow from 0. `cancelled` and `failed` are among `requests`, those that were accepted."""

    requests: int = 0
    cancelled: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    steps: int = 0
    failed_steps: int = 0
    step_seconds: float = 0.0
    """In forward passes and in choosing tokens."""
    preemptions: int = 0
    turn_wait_seconds: float = 0.0
    """Until the device was this worker's, and before `step_seconds` of the same step."""
    missed_turns: int = 0
    """Steps that did not wait for it any longer."""
    drafted_tokens: int = 0
    """Guessed tokens that were verified; `accepted_tokens` of them were what the model says, and are among
    `completion_tokens`."""
    accepted_tokens: int = 0
    refused_pin_tokens: int = 0
    """Of prompts that were computed: to be pinned, and there was no room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLoad:
    """How full an engine is at one moment."""

    running: int
    waiting: int
    num_blocks: int
    """The most there will ever be; `room` of them have memory."""
    room: int
    free_blocks: int
    cached_blocks: int
    pinned_blocks: int = 0
    num_broken_pins: int = 0
    """Blocks that were pinned and given away before their time; grows."""
