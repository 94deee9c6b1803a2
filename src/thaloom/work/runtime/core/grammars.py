"""Constraints on an answer, compiled for a model's tokenizer: which tokens may come next.

Compiling and stepping are bounded by fuel, so that no schema or expression can hold a worker up for long.
Source: llguidance (Microsoft), a parser over tokens; the limits are its own words for work.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from thaloom.base.errors import BadParameter, NotServable
from thaloom.base.heap import give_back
from thaloom.hal.draws import Allowed
from thaloom.work.runtime.core.schemas import tightened
from thaloom.work.runtime.messages import Grammar
from thaloom.work.runtime.text.tokenizer import Vocabulary

if TYPE_CHECKING:
    import llguidance

MAX_GRAMMAR_CHARACTERS = 256 * 1024
_LIMITS: dict[str, Any] = {
    # Spent with the first mask. Measured with nested counts, ((a{99}){99}){99}: at worst 50 ms and 30 MB; ten times as
    # much, which is the library's own bound, is 1.5 s and 230 MB for one request.
    "initial_lexer_fuel": 100_000,
    "step_lexer_fuel": 200_000,  # some 14 ms, of one token
    "step_max_items": 50_000,
    "max_lexer_states": 50_000,  # of 1 to 2 kB
    "max_grammar_size": 200_000,
    "verbose_errors": False,
}
_SLICES = [
    r"[\x20\x0A\x0D\x09]+",
    *(rf'[^"\\\x00-\x1F\x7F]{{1,{most}}}' for most in (2, 4, 6, 8, 10, 16, 30)),
    r'[^"\\\x00-\x1F\x7F]+',
]
"""Sets of tokens that a mask takes or leaves as one: white space, and texts within a JSON string up to a length. The
library's own have 10 and 30 only: a string that may go on for fewer characters than that is then asked token by token.
Measured, 128,000 tokens, strings of at most 40 characters: 440 us a mask with its own, 220 with these."""
_KEPT = 32
"""Compiled constraints kept for the next request with the same one."""


class Matcher:
    """One answer's constraint: where it stands. Used by one thread at a time."""

    def __init__(self, matcher: llguidance.LLMatcher, vocab_size: int, param: str) -> None:
        self._matcher = matcher
        self._allowed: Allowed = np.zeros((vocab_size + 31) // 32, np.uint32)
        self._place = (self._allowed.ctypes.data, self._allowed.nbytes)
        self._param = param

    def allowed(self) -> Allowed:
        """The tokens that may come next, in memory of ours until the next call; a stop token is among them where the
        answer may end. Raises BadParameter where the constraint has become too complex to go on."""
        self._matcher.unsafe_compute_mask_ptr(*self._place)
        self._check()
        return self._allowed

    def permits(self, token: int) -> bool:
        """Whether this one's text may come next: some microseconds, where `allowed` can take a thousand times as long.
        Of a text that is fixed from here on `allowed` has one way to write it, this has any. Raises as `allowed`."""
        found = self._matcher.validate_tokens([token])
        self._check()
        return bool(found)

    def take(self, token: int) -> None:
        """This one came next. Raises BadParameter as `allowed` does."""
        self._matcher.consume_token(token)
        self._check()

    @property
    def complete(self) -> bool:
        """Nothing may follow any more."""
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise _refusal(self._matcher.get_error(), self._param)


class Grammars:
    """Compiles constraints for one model. Safe for several threads at once; compiles one at a time.

    `read` gives the model's vocabulary; it is asked for when the first constraint comes."""

    def __init__(self, read: Callable[[], Vocabulary], vocab_size: int) -> None:
        self._read = read
        self._vocab_size = vocab_size
        self._lock = threading.Lock()
        self._tokenizers: dict[tuple[int, ...], llguidance.LLTokenizer] = {}
        self._compiled: OrderedDict[tuple[str, str, tuple[int, ...]], llguidance.LLMatcher] = OrderedDict()

    def matcher(self, grammar: Grammar) -> Matcher:
        """Slow where it is new: up to some tenths of a second. Raises BadParameter saying what is wrong with it."""
        ends = tuple(grammar.ends)
        key = (grammar.kind, grammar.text, ends)
        with self._lock:
            pristine = self._compiled.get(key)
            if pristine is None:
                try:
                    pristine = self._compile(grammar, self._tokenizer(ends))
                finally:  # compiling takes and frees much in small pieces: 0.5 GB after thousands, without this
                    give_back()
                self._compiled[key] = pristine
                while len(self._compiled) > _KEPT:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(key)
            return Matcher(pristine.deep_copy(), self._vocab_size, grammar.param)

    def _tokenizer(self, ends: tuple[int, ...]) -> llguidance.LLTokenizer:
        import llguidance  # most workers never need it
        from llguidance import _tokenizer

        if ends not in self._tokenizers:
            if not ends:
                raise NotServable("answers of this model cannot be constrained: it has no token that ends an answer")
            words = _tokenizer.TokenizerWrapper(_Words(self._read(), ends[0]))
            made = llguidance.LLTokenizer(words, n_vocab=self._vocab_size, eos_token=list(ends), slices=_SLICES)
            self._tokenizers = {ends: made}  # one model has one set of ends
        return self._tokenizers[ends]

    def _compile(self, grammar: Grammar, tokenizer: llguidance.LLTokenizer) -> llguidance.LLMatcher:
        import llguidance

        if len(grammar.text) > MAX_GRAMMAR_CHARACTERS:
            raise _refusal(
                f"it has {len(grammar.text)} characters, at most {MAX_GRAMMAR_CHARACTERS} are read", grammar.param
            )
        try:
            source = _WRITTEN[grammar.kind](grammar.text)
        except (ValueError, RecursionError) as error:
            raise _refusal(str(error), grammar.param) from error
        limits = llguidance.LLParserLimits(**_LIMITS)
        made = llguidance.LLMatcher(tokenizer, source, log_level=0, limits=limits)
        if made.is_error():
            raise _refusal(made.get_error(), grammar.param)
        self._try(made, grammar.param)
        return made

    def _try(self, made: llguidance.LLMatcher, param: str) -> None:
        """One token's step. Much is done with the first: here it holds up nobody's step, and can still be refused."""
        trial = Matcher(made, self._vocab_size, param)
        first = np.flatnonzero(np.unpackbits(trial.allowed().view(np.uint8), bitorder="little"))
        if len(first):
            Matcher(made.deep_copy(), self._vocab_size, param).take(int(first[0]))


class _Words:
    """A vocabulary in llguidance's words."""

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary, end: int) -> None:
        self.eos_token_id = end
        self.tokens = vocabulary.tokens
        self.special_token_ids = vocabulary.special
        self._encode = vocabulary.encode

    def __call__(self, text: str) -> list[int]:
        return self._encode(text)


def _refusal(reason: str, param: str) -> BadParameter:
    first = reason.strip().splitlines()[0][:300] if reason.strip() else "it is not understood"
    return BadParameter(f"{param} cannot be followed: {first}", param=param)


def _schema(text: str) -> str:
    """Without free white space: a small model could go on with it for ever."""
    import llguidance

    options: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    schema = json.loads(text)
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise ValueError("a JSON schema is an object")
    return str(llguidance.LLMatcher.grammar_from_json_schema(json.dumps(tightened(schema)), overrides=options))


def _choice(text: str) -> str:
    import llguidance

    choices = json.loads(text)
    if not isinstance(choices, list) or not choices or not all(isinstance(one, str) and one for one in choices):
        raise ValueError("choices are a list of texts, at least one")
    lark = "start: " + " | ".join(json.dumps(one, ensure_ascii=False) for one in choices)
    return str(llguidance.LLMatcher.grammar_from_lark(lark))


def _lark(text: str) -> str:
    import llguidance

    return str(llguidance.LLMatcher.grammar_from_lark(text))


def _regex(text: str) -> str:
    import llguidance

    return str(llguidance.LLMatcher.grammar_from_regex(text))


def _gbnf(text: str) -> str:
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        lark = gbnf_to_lark(text)
    except Exception as error:  # it has an error of its own, and raises Exception itself for a rule that is not there
        raise ValueError(str(error)) from error
    return _lark(lark)


_WRITTEN: dict[str, Callable[[str], str]] = {
    "json_schema": _schema,
    "json_object": lambda _: _schema('{"type": "object"}'),
    "regex": _regex,
    "choice": _choice,
    "lark": _lark,
    "gbnf": _gbnf,
}
KINDS: Sequence[str] = tuple(_WRITTEN)
