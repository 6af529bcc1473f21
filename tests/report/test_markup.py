"""Nothing that comes in as text can become markup."""

from __future__ import annotations

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from autoprune.report.markup import Markup, escaped, join, tag, visible


class _Reader(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.text())
def test_any_text_comes_back_as_text(text: str) -> None:
    read = _Reader(tag("p", text, title=text))
    # A parser makes one line end of two.
    assert read.text.replace("\r\n", "\n") == visible(text).replace("\r\n", "\n")
    assert read.tags == [("p", {"title": visible(text)})]


def test_markup_stays_and_nested_sequences_are_laid_flat() -> None:
    assert join([Markup("<b>"), ["a<b", None, [3]]]) == "<b>a&lt;b3"


def test_attributes() -> None:
    made = tag("rect", class_="a b", data_t="0.1", x=1.26, y=2, hidden=False, open=True, role=None)
    assert made == '<rect class="a b" data-t="0.1" x="1.3" y="2" open/>'


def test_characters_that_are_not_seen_are_marked() -> None:
    assert escaped("a\u202eb\x00c\ud800") == "a\ufffdb\ufffdc\ufffd"
