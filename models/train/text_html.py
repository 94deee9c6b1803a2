"""HTML to plain text: one line per paragraph, code kept as written.

Manual pages come through here too (mandoc renders them to HTML first), so
that the whole corpus has one typography.
"""

from __future__ import annotations

import re

from lxml import etree, html

MAIN_CONTENT = (
    '//div[contains(@class,"manual-text")]',
    '//div[@role="main"]',
    "//main",
    "//article",
    '//div[@id="docContent" or @id="page-content" or @id="content" or @class="body"]',
    "//body",
)
DROPPED_TAGS = frozenset(
    "script style nav header footer aside form button select svg math img head noscript iframe object input".split()
)
DROPPED_CLASSES = frozenset(
    "headerlink navheader navfooter sphinxsidebar related toc toctree-wrapper contents footer breadcrumbs "
    "linenos sidebar navigation nav head foot header-section-number top bottomnav mw-editsection".split()
)
BLOCK_TAGS = frozenset(
    "p div section article main body blockquote ul ol dl table tbody thead center details summary figure "
    "figcaption fieldset address hr caption address".split()
)
HEADING_TAGS = frozenset("h1 h2 h3 h4 h5 h6".split())
SPACES = re.compile(r"\s+")


def text_from_html(page: bytes) -> str:
    """Returns the readable text of one HTML page, or "" where there is none."""
    if not page.strip():
        return ""
    try:
        parser = html.HTMLParser(encoding=encoding_of(page), huge_tree=True, remove_comments=True, remove_pis=True)
        tree = html.document_fromstring(page, parser=parser)
    except (etree.ParserError, etree.XMLSyntaxError, ValueError):
        return ""
    for query in MAIN_CONTENT:
        found = tree.xpath(query)
        if found:
            writer = BlockWriter()
            try:
                writer.visit(found[0])
            except RecursionError:  # hundreds of unclosed tags: not worth reading
                return ""
            return writer.text()
    return ""


def encoding_of(page: bytes) -> str:
    declared = re.search(rb"charset=[\"']?([\w-]+)", page[:2048])
    name = declared.group(1).decode().lower() if declared else "utf-8"
    return name if name in {"utf-8", "iso-8859-1", "us-ascii", "windows-1252"} else "utf-8"


class BlockWriter:
    """Collects blocks of text while walking a tree; blocks are parted by one blank line."""

    def __init__(self) -> None:
        self.blocks: list[str] = []
        self.inline: list[str] = []
        self.tight = False  # the next block follows its predecessor without a blank line
        self.prefix = ""

    def text(self) -> str:
        self.flush()
        return "".join(self.blocks).strip() + "\n"

    def flush(self) -> None:
        lines = [SPACES.sub(" ", line).strip() for line in "".join(self.inline).split("\v")]
        self.inline.clear()
        block = "\n".join(line for line in lines if line).replace("¶", "")
        if block:
            self.emit(self.prefix + block)
            self.prefix = ""

    def emit(self, block: str) -> None:
        self.blocks.append(("\n" if self.tight else "\n\n") + block)
        self.tight = False

    def visit(self, node: etree._Element) -> None:
        if isinstance(node.tag, str) and not is_dropped(node):
            self.visit_tag(node, node.tag.rpartition("}")[2])
        if node.tail:
            self.inline.append(node.tail)

    def visit_tag(self, node: etree._Element, tag: str) -> None:
        if tag == "pre":
            self.flush()
            self.emit_verbatim(node)
        elif tag == "br":
            self.inline.append("\v")
        elif tag == "li":
            self.visit_item(node)
        elif tag == "dd":
            self.flush()
            self.tight = True
            self.visit_children(node)
            self.flush()
        elif tag == "tr":
            self.visit_row(node)
        elif tag in BLOCK_TAGS or tag in HEADING_TAGS or tag == "dt":
            self.flush()
            self.visit_children(node)
            self.flush()
        else:
            self.visit_children(node)

    def visit_children(self, node: etree._Element) -> None:
        if node.text:
            self.inline.append(node.text)
        for child in node:
            self.visit(child)

    def visit_item(self, node: etree._Element) -> None:
        self.flush()
        self.tight = node.getprevious() is not None
        self.prefix = "- "
        self.visit_children(node)
        self.flush()
        self.prefix = ""

    def visit_row(self, node: etree._Element) -> None:
        self.flush()
        if node.xpath(".//td[.//p or .//pre or .//dl or .//ul or .//div or .//table]"):
            self.visit_children(node)
            self.flush()
            return
        cells = [SPACES.sub(" ", "".join(cell.itertext())).strip() for cell in node]
        row = "  ".join(cell for cell in cells if cell)
        if row:
            self.tight = node.getprevious() is not None
            self.emit(row)

    def emit_verbatim(self, node: etree._Element) -> None:
        lines = [line.rstrip() for line in "".join(node.itertext()).expandtabs(4).strip("\n").split("\n")]
        if any(lines):
            self.emit("\n".join("    " + line if line else "" for line in lines))


def is_dropped(node: etree._Element) -> bool:
    return node.tag in DROPPED_TAGS or not DROPPED_CLASSES.isdisjoint(node.get("class", "").split())
