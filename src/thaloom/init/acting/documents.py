"""Many documents as one action: all of them, or none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from thaloom.base.actions import RISKS, Change, Plan, Risk
from thaloom.base.errors import BadParameter, RevisionConflict
from thaloom.init.acting.kinds import Aid, Done, call
from thaloom.init.documents.forms import record, same, version
from thaloom.init.documents.kinds import Changed, DocumentKind, DocumentKinds
from thaloom.init.rounds.reconcile_loop import ReconcileLoop
from thaloom.kernel.state.labels import check_labels, matches
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import Document

MAX_DOCUMENTS = 1000
"""At once: what is written down of them, twice over, is to stay a few megabytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyWish:
    """Documents in their one form, and what is to go."""

    documents: tuple[Document, ...] = ()
    remove: tuple[str, ...] = ()
    """Subjects, as `service/chat`."""
    prune: dict[str, str] | None = None
    """Labels: whatever bears them all and is not among the documents goes."""


@dataclass(frozen=True, slots=True)
class _Step:
    kind: DocumentKind
    name: str
    before: Document | None
    after: Document | None

    @property
    def subject(self) -> str:
        return f"{self.kind.name.lower()}/{self.name}"


class Apply:
    """`documents.apply`. All that is in the database changes in one transaction: a kill leaves all or nothing."""

    name, parameters, outlives_caller = "documents.apply", ApplyWish, True

    def __init__(
        self, kinds: DocumentKinds, store: StateStore, loop: ReconcileLoop, require_up: Callable[[], None]
    ) -> None:
        self._kinds = kinds
        self._store = store
        self._loop = loop
        self._require_up = require_up

    async def plan(self, given: ApplyWish) -> Plan:
        self._require_up()
        steps = self._steps(given)
        _check_versions(given, steps)
        changing = [step for step in steps if not same(step.before, step.after)]
        changes = [
            Change(subject=step.subject, before=record(step.before), after=record(step.after)) for step in changing
        ]
        asked = call(self.name, given)
        if not changes:
            return Plan(call=asked, risk="low", changes=(), no_undo="it changes nothing")
        await self._check(changing, steps)
        no_undo = next((step.kind.no_undo for step in changing if step.before and step.kind.no_undo), "")
        return Plan(
            call=asked,
            risk=max((_risk(step) for step in changing), key=RISKS.index),
            changes=tuple(changes),
            touches=tuple(touched for step in changing if step.before for touched in step.kind.touches(step.name)),
            undo=None if no_undo else call(self.name, _undoing(changing)),
            no_undo=no_undo,
        )

    async def apply(self, given: ApplyWish, _: Aid) -> Done:
        steps = self._steps(given)
        changing = [step for step in steps if not same(step.before, step.after)]
        kinds = _by_kind(steps, changing)
        for kind, changed in kinds:
            kind.prepare(changed)
        with self._store.together():
            for step in changing:
                if step.after is None:
                    step.kind.remove(step.name)
                else:
                    step.kind.put(step.after)
        for kind, changed in kinds:
            kind.changed(changed)
        await self._loop.settle()
        return Done(told=_told(steps))

    async def holds(self, given: ApplyWish) -> bool:
        return all(same(step.before, step.after) for step in self._steps(given))

    def _steps(self, given: ApplyWish) -> list[_Step]:
        """What each document would become; one for every document, also where nothing changes."""
        if len(given.documents) > MAX_DOCUMENTS:
            raise BadParameter(
                f"at most {MAX_DOCUMENTS} documents at once, not {len(given.documents)}", param="documents"
            )
        steps: dict[str, _Step] = {}
        for number, document in enumerate(given.documents):
            kind = self._kinds.of(document.kind)
            if document.subject in steps:
                raise BadParameter(
                    f"{document.subject} is there twice",
                    param="metadata.name",
                    document=number,
                    subject=document.subject,
                )
            steps[document.subject] = _Step(kind, document.name, _present(kind, document.name), document)
        for subject in given.remove:
            kind, name = self._kinds.of_subject(subject)
            steps.setdefault(subject, _Step(kind, name, kind.get(name), None))
        for kind, document in self._pruned(given):
            if document.subject not in steps:
                steps[document.subject] = _Step(kind, document.name, document, None)
        return list(steps.values())

    def _pruned(self, given: ApplyWish) -> list[tuple[DocumentKind, Document]]:
        """Raises BadParameter where labels are missing: none would mean everything, and a document without them would
        never be pruned again."""
        if given.prune is None:
            return []
        if not given.prune:
            raise BadParameter("prune needs a label: without one everything would go", param="prune")
        check_labels(given.prune, "prune")
        for number, document in enumerate(given.documents):
            if not matches(document.labels, given.prune):
                missing = ", ".join(f"{key}={value}" for key, value in given.prune.items())
                raise BadParameter(
                    f"{document.subject} does not bear {missing}, by which is pruned",
                    param="metadata.labels",
                    document=number,
                    subject=document.subject,
                )
        return [(kind, one) for kind in self._kinds for one in kind.list() if matches(one.labels, given.prune)]

    async def _check(self, changing: list[_Step], steps: list[_Step]) -> None:
        """Raises whatever forbids any of it. First what goes leaves room for what comes."""
        for kind, changed in _by_kind(steps, changing):
            await kind.check(changed)


def _present(kind: DocumentKind, name: str) -> Document | None:
    """None also where the machine lacks what belongs to it: asking for it again makes it whole."""
    return kind.get(name) if kind.shown(name) else None


def _by_kind(steps: list[_Step], changing: list[_Step]) -> list[tuple[DocumentKind, Changed]]:
    coming = frozenset(step.subject for step in steps if step.after is not None)
    gone = frozenset(step.subject for step in steps if step.after is None)
    kinds: dict[str, DocumentKind] = {}
    put: defaultdict[str, list[Document]] = defaultdict(list)
    removed: defaultdict[str, list[str]] = defaultdict(list)
    for step in changing:
        kinds[step.kind.name] = step.kind
        if step.after is not None:
            put[step.kind.name].append(step.after)
        else:
            removed[step.kind.name].append(step.name)
    return [
        (kind, Changed(put=tuple(put[name]), removed=tuple(removed[name]), coming=coming, gone=gone))
        for name, kind in kinds.items()
    ]


def _check_versions(given: ApplyWish, steps: list[_Step]) -> None:
    """Raises RevisionConflict where somebody changed what this was made from. What is there already as it is wished is
    no conflict: asking twice is asking once."""
    for number, (document, step) in enumerate(zip(given.documents, steps, strict=False)):
        if document.version is None or same(step.before, document):
            continue
        present = None if step.before is None else version(step.before)
        if present != document.version:
            what = "is not there" if present is None else f"has version {present}"
            raise RevisionConflict(
                f"{document.subject} {what}, not {document.version}: somebody changed it meanwhile",
                param="metadata.version",
                document=number,
                subject=document.subject,
                version=present,
            )


def _risk(step: _Step) -> Risk:
    if step.before is None:
        return "low"
    return step.kind.risk(removed=step.after is None)


def _undoing(changing: list[_Step]) -> ApplyWish:
    return ApplyWish(
        documents=tuple(step.before for step in changing if step.before is not None),
        remove=tuple(step.subject for step in changing if step.before is None),
    )


def _told(steps: list[_Step]) -> dict[str, list[str]]:
    told: dict[str, list[str]] = {"created": [], "changed": [], "removed": [], "unchanged": []}
    for step in steps:
        if same(step.before, step.after):
            told["unchanged"].append(step.subject)
        elif step.before is None:
            told["created"].append(step.subject)
        else:
            told["changed" if step.after is not None else "removed"].append(step.subject)
    return told
