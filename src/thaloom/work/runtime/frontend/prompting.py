"""How one model is spoken to: tokenizer, template and sampling defaults of its files, read once and kept."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thaloom.base.clock import Clock
from thaloom.base.errors import BadParameter
from thaloom.base.events import Degraded, Emit
from thaloom.work.runtime.dialects import Dialect, registry
from thaloom.work.runtime.dialects.selecting import select
from thaloom.work.runtime.dialects.thinking import Thinking, thinking_of
from thaloom.work.runtime.frontend.marking import num_in_common, otherwise, that_count
from thaloom.work.runtime.frontend.telling import as_told
from thaloom.work.runtime.text.abilities import Abilities, abilities_of
from thaloom.work.runtime.text.guarding import Guard, check_unmarked
from thaloom.work.runtime.text.templates import ChatTemplate
from thaloom.work.runtime.text.tokenizer import Tokenizer, read_text_files
from thaloom.work.runtime.types import (
    ChatMessage,
    EmbedRequest,
    GenerateRequest,
    Pooling,
    Sampling,
    TokenizeRequest,
    Tool,
)

SHORT_PROMPT_CHARACTERS = 8_192
"""Below this, encoding takes about a millisecond: less than a thread's hand-over is worth."""
_KINDS = dict.fromkeys(("temperature", "top_p", "min_p", "repetition_penalty"), (int, float)) | {"top_k": (int,)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """One model's way with text."""

    tokenizer: Tokenizer
    template: ChatTemplate | None
    sampling: Sampling
    """What the model's generation config asks for where the caller does not say."""
    context_length: int | None
    pooling: Pooling = "mean"
    """Of embeddings, where the caller does not say."""
    dialect: Dialect
    """How it calls tools."""
    thinking: Thinking | None = None
    """How it marks its thoughts, if it has any."""
    abilities: Abilities = field(default_factory=Abilities)
    """Of the template."""

    def prompt_of(self, request: GenerateRequest) -> list[int]:
        """Raises BadParameter on `messages` or `prompt`. Takes time in proportion to the text."""
        if request.prompt_tokens is not None:
            self.tokenizer.check_tokens(request.prompt_tokens)
            tokens = list(request.prompt_tokens)
        elif request.messages is not None:
            tokens = self.chat_tokens(request.messages, request)
        else:
            tokens = self.tokenizer.encode_prompt(request.prompt or "")
        if not tokens:
            raise BadParameter("there is not one token in the prompt", param=prompt_field(request))
        return tokens

    def pins_of(self, request: GenerateRequest, prompt: list[int]) -> list[tuple[int, float]]:
        """Of its prompt, how many tokens are to stay, and for how many seconds; none for a mark that cannot be found.
        Takes as long as `prompt_of` for each mark that counts and has something behind it."""
        pins = []
        for pin in that_count(request):
            with suppress(BadParameter):  # nobody asked for this chat: what a template has against it harms no request
                other = request if pin.mark is None else otherwise(request, pin.mark)
                found = prompt if other == request else self.prompt_of(other)
                pins.append((num_in_common(prompt, found), pin.seconds))
        return pins

    def chat_tokens(self, messages: tuple[ChatMessage, ...], request: GenerateRequest | TokenizeRequest) -> list[int]:
        """Raises BadParameter on `messages`."""
        if self.template is None:
            raise BadParameter(
                f"model {request.model!r} has no chat template; send it a plain prompt (/v1/completions)",
                param="messages",
            )
        guard = self.tokenizer.guard
        tool_use = request.tool_use if isinstance(request, GenerateRequest) else "auto"
        tools = [] if tool_use == "none" else [guard.value(_told(tool)) for tool in request.tools]
        turns = [_guarded(message, guard) for message in messages]
        turns, tools = as_told(turns, tools, self.abilities, self.dialect)
        templating = request.templating
        if templating.variables:
            templating = dataclasses.replace(templating, variables=guard.value(templating.variables))
        return self.tokenizer.encode_rendered(self.template.render(turns, tools, templating))

    def tokens_of(self, request: TokenizeRequest) -> list[int]:
        """As `prompt_of`, but no tokens are no error."""
        if request.messages is not None:
            return self.chat_tokens(request.messages, request)
        if request.add_special_tokens:
            return self.tokenizer.encode_prompt(request.prompt or "")
        check_unmarked(request.prompt or "", "prompt")
        return self.tokenizer.encode_rendered(request.prompt or "")


def _told(tool: Tool) -> dict[str, Any]:
    """As OpenAI's protocol, and with it every template, has it."""
    function = {"name": tool.name, "description": tool.description or "", "parameters": tool.parameters}
    return {"type": "function", "function": function}


def _guarded(message: ChatMessage, guard: Guard) -> ChatMessage:
    return ChatMessage(
        role=guard.text(message.role), content=guard.text(message.content), extra=guard.value(message.extra)
    )


def prompt_field(request: GenerateRequest) -> str:
    return "prompt" if request.messages is None else "messages"


def read_speech(files: Mapping[str, str], *, model: str, clock: Clock, emit: Emit) -> Speech:
    """Read a model's text files. Slow for a large vocabulary (about a second for 150,000 tokens)."""
    text_files = read_text_files(files)
    tokenizer = Tokenizer(text_files)
    template = None
    if text_files.chat_template is not None:
        template = ChatTemplate(
            text_files.chat_template, clock=clock, bos_token=tokenizer.bos_token, eos_token=tokenizer.eos_token
        )
    abilities = Abilities() if template is None else abilities_of(template)
    known: dict[str, Any] = {
        "template": text_files.chat_template,
        "tokens": tokenizer.added,
        "configs": (text_files.config, text_files.tokenizer_config),
    }
    context_length = text_files.config.get("max_position_embeddings")
    return Speech(
        tokenizer=tokenizer,
        template=template,
        sampling=_default_sampling(text_files.generation_config, model, emit),
        context_length=context_length if isinstance(context_length, int) else None,
        dialect=select(registry(), abilities, **known),
        thinking=thinking_of(**known),
        abilities=abilities,
    )


def _default_sampling(config: Mapping[str, Any], model: str, emit: Emit) -> Sampling:
    if config.get("do_sample") is False:
        config = {"temperature": 0.0, "repetition_penalty": config.get("repetition_penalty")}
    wishes = {name: config[name] for name, kinds in _KINDS.items() if type(config.get(name)) in kinds}
    try:
        return Sampling(**wishes)
    except BadParameter as error:
        emit(Degraded(subject=model, reason="BadGenerationConfig", message=error.message))
        return Sampling()


class SpeechCache:
    """The models in use, by the identity of their files: a changed file is a new model. Belongs to one event loop."""

    def __init__(self, clock: Clock, emit: Emit, *, limit: int = 8) -> None:
        self._clock = clock
        self._emit = emit
        self._limit = limit
        self._kept: OrderedDict[tuple[object, ...], asyncio.Future[Speech]] = OrderedDict()
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="text")

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def get(self, model: str, files: Mapping[str, str]) -> Speech:
        key = _identity(files)
        if key not in self._kept:
            self._kept[key] = asyncio.get_running_loop().run_in_executor(
                self._threads, lambda: read_speech(files, model=model, clock=self._clock, emit=self._emit)
            )
            self._kept[key].add_done_callback(_take_notice)
            while len(self._kept) > self._limit:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        reading = self._kept[key]
        try:
            return await asyncio.shield(reading)
        except asyncio.CancelledError:
            raise
        except BaseException:
            self._kept.pop(key, None)
            raise

    async def tokenise(self, speech: Speech, request: GenerateRequest) -> list[int]:
        """The request's prompt in tokens; long ones in a thread, so that nobody else waits."""
        if _is_short(request):
            return speech.prompt_of(request)
        return await asyncio.get_running_loop().run_in_executor(self._threads, speech.prompt_of, request)

    async def pins(self, speech: Speech, request: GenerateRequest, prompt: list[int]) -> list[tuple[int, float]]:
        """Speech.pins_of; where there is something to be found, in a thread, so that nobody else waits."""
        if all(pin.mark is None for pin in request.pins):
            return speech.pins_of(request, prompt)
        return await asyncio.get_running_loop().run_in_executor(self._threads, speech.pins_of, request, prompt)

    async def text_tokens(self, speech: Speech, request: EmbedRequest) -> list[int]:
        """Of a text to be embedded. Raises BadParameter on `input`."""
        if request.tokens is not None:
            speech.tokenizer.check_tokens(request.tokens, "input")
            tokens = list(request.tokens)
        else:
            tokens = await self.tokenize(speech, TokenizeRequest(model=request.model, prompt=request.text))
        if not tokens:
            raise BadParameter("there is not one token in the input", param="input")
        return tokens

    async def tokenize(self, speech: Speech, request: TokenizeRequest) -> list[int]:
        if _is_short(request):
            return speech.tokens_of(request)
        return await asyncio.get_running_loop().run_in_executor(self._threads, speech.tokens_of, request)


def _is_short(request: GenerateRequest | TokenizeRequest) -> bool:
    if request.tools:
        return False  # their schemas may be long, and every template goes through them
    num_characters = len(request.prompt or "")
    if request.messages is not None:
        num_characters = sum(len(message.content) for message in request.messages)
    return num_characters <= SHORT_PROMPT_CHARACTERS


def _take_notice(reading: asyncio.Future[Speech]) -> None:
    """Whoever waited may have gone: then nobody else looks at the error, and that is no news."""
    if not reading.cancelled():
        reading.exception()


def _identity(files: Mapping[str, str]) -> tuple[object, ...]:
    def identity(path: str) -> tuple[int, ...]:
        try:
            facts = Path(path).stat()
        except OSError:
            return ()
        return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns

    return tuple((name, path, identity(path)) for name, path in sorted(files.items()))
