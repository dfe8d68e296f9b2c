"""The text of a page as a reader sees it."""

from __future__ import annotations

from html.parser import HTMLParser


def visible_text(html: str) -> str:
    """What a reader sees, spaces collapsed."""
    parts: list[str] = []

    class Collector(HTMLParser):
        hidden = False

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.hidden = tag == "style"

        def handle_endtag(self, tag: str) -> None:
            self.hidden = False

        def handle_data(self, data: str) -> None:
            if not self.hidden:
                parts.append(data)

    Collector().feed(html)
    return " ".join(" ".join(parts).split())
