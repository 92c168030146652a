"""Tests of the relative links of the documentation, and of its index."""

import re

import pytest

from tests.docs.pages import PAGES, ROOT, without_code

INDEX = ROOT / "docs" / "README.md"
_LINK = re.compile(r"\]\(\s*<?([^)>\s]+)>?[^)]*\)")
_SOURCE = re.compile(r"""<img[^>]*\bsrc=["']([^"']+)["']""")
_HEADING = re.compile(r"^#+ (.+?)\s*$", re.MULTILINE)


def relative_links(page):
    text = without_code(page.read_text(encoding="utf-8"))
    links = [*_LINK.findall(text), *_SOURCE.findall(text)]
    return [link for link in links if not re.match(r"[a-z]+:", link)]


def anchors(page):
    """Return the anchors that GitHub derives from the headings of a page."""
    headings = _HEADING.findall(page.read_text(encoding="utf-8"))
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_point_to_existing_files_and_headings(page):
    broken = []
    for link in relative_links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_the_index_lists_every_page():
    linked = {(INDEX.parent / link.partition("#")[0]).resolve() for link in relative_links(INDEX)}
    assert {page.resolve() for page in PAGES} - linked <= {INDEX, ROOT / "README.md"}


def test_the_readme_links_to_the_index():
    assert "docs/README.md" in relative_links(ROOT / "README.md")
