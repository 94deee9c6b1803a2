"""Info files and hard-wrapped text to one line per paragraph."""

from __future__ import annotations

import re
import textwrap

NODE_HEADER = re.compile(r"^File: .*Node: .*$")
MENU_LINE = re.compile(r"^\* .*::")
UNDERLINE = re.compile(r"^\s*([*=\-~^.])\1{3,}\s*$")
PROSE = re.compile(r"[a-z]{2,}.* .* .*[a-z]")


def text_from_info(source: str) -> str:
    """Returns an Info manual's prose, without node headers, menus, tag tables and indices."""
    nodes = re.split(r"\n?\x1f\x0c?\n", source)[1:]
    return text_from_wrapped("\n\n".join(body for node in nodes if (body := node_body(node))))


def node_body(node: str) -> str:
    if not node.startswith("File: ") or "\0\b[index" in node:
        return ""
    lines = node.split("\n")[1:]
    kept = [line for line in lines if line != "* Menu:" and not MENU_LINE.match(line)]
    return "\n".join(kept)


def text_from_wrapped(source: str) -> str:
    """Joins the lines of prose paragraphs; leaves code, tables and headings as they are."""
    lines = [line.rstrip() for line in source.expandtabs(8).replace("\f", "\n").split("\n")]
    kept = "\n".join(line for line in lines if not UNDERLINE.match(line) and not NODE_HEADER.match(line))
    blocks = (join_prose(block) for block in re.split(r"\n\s*\n", kept))
    return "\n\n".join(block for block in blocks if block.strip()).strip() + "\n"


def join_prose(block: str) -> str:
    block = textwrap.dedent(block.strip("\n"))
    lines = block.split("\n")
    body = lines[1:-1] or lines[-1:]
    is_prose = (
        len(lines) > 1
        and len({len(line) - len(line.lstrip()) for line in lines[1:]}) == 1
        and len(lines[0]) > 45
        and all(len(line.strip()) > 40 and PROSE.search(line) for line in body)
        and not any("   " in line.strip() for line in lines)
    )
    return " ".join(line.strip() for line in lines) if is_prose else block
