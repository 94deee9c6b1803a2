"""The catalogue: key -> (English, Chinese). A test holds both to the same placeholders, and every verb to having texts.

Keys: `verb.*` one line of what a verb does, `more.*` what else its help says, `examples.*`, `argument.*` and `option.*`
(`option.<verb>.<name>` where a verb means it in its own way), `head.*` headings, `title.*` and `hint.*` for every code
of base.errors, `reason.*` for those of conditions, and one key a sentence for the rest.
"""

from __future__ import annotations

from thaloom.user.cli.catalogue import changes, errors, options, pages, reasons, sentences, verbs, words

TEXTS: dict[str, tuple[str, str]] = {
    **changes.TEXTS,
    **errors.TEXTS,
    **options.TEXTS,
    **pages.TEXTS,
    **reasons.TEXTS,
    **sentences.TEXTS,
    **verbs.TEXTS,
    **words.TEXTS,
}
