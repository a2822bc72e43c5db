"""The templates that ship, in Debian's Chromium: narrow and wide, light and dark, hostile data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from formrelay.actors.emails.render import Templates
from tests.support.browser import browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

TEMPLATES = Templates()
WORD = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft" * 4
URL = f"https://example.com/{'a' * 300}?q={'b%20' * 50}"
SCRIPT = "</td></table><script>document.body.remove()</script><img src=x onerror=alert(1)>"
ANSWERS = {
    SCRIPT: SCRIPT,
    WORD: WORD,
    "": "",
    "URL": URL,
    "List": [WORD, True, {"name": "cv.pdf", "url": URL}],
    "מה שמך?": "דנה כהן (Tel Aviv)\nשורה שנייה",
    "ご意見": "とても使いやすいフォームでした。" * 20,
    "😀": "👩‍👩‍👧‍👦" * 100,
    "[if mso]>": "<!--[if mso]><p>x</p><![endif]-->",
    "Nothing": None,
}
HOSTILE: dict[str, dict[str, Any]] = {
    "submission_notice": {
        "formTitle": WORD + SCRIPT,
        "submittedAt": WORD,
        "answers": ANSWERS,
        "url": URL,
    },
    "autoresponse": {
        "title": WORD,
        "message": f"{URL}\n\n{SCRIPT}",
        "answers": ANSWERS,
        "formTitle": WORD,
        "lang": "he",
    },
    "digest": {
        "period": WORD,
        "forms": [{"title": WORD, "count": 10**20, "url": URL}, {"title": SCRIPT, "count": 0}] * 20,
    },
    "dead_letter_notice": {
        "queue": WORD,
        "count": 10**15,
        "letters": [{"id": WORD, "actor": WORD, "reason": WORD, "error": f"{SCRIPT}\n{WORD}"}],
        "url": URL,
    },
}

#: The texts of a page whose contrast with their background is below 4.5 (WCAG 2.2, level AA).
LOW_CONTRAST = """() => {
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  const light = text => {
    const [r, g, b] = numbers(text).map(
      c => c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    const color = getComputedStyle(element).backgroundColor;
    return numbers(color)[3] === 0 ? behind(element.parentElement) : color;
  };
  return [...document.querySelectorAll("body *")].filter(element => {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (!own || !element.offsetHeight) return false;
    const both = [light(getComputedStyle(element).color), light(behind(element))].sort();
    return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05) < 4.5;
  }).map(element => element.outerHTML);
}"""


def example(name: str) -> dict[str, Any]:
    path = TEMPLATES.example(name)
    assert path is not None
    return json.loads(path.read_bytes())


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


def shown(chromium: Browser, name: str, data: dict[str, Any], **options: Any) -> Page:
    page = chromium.new_page(**options)
    page.set_content(TEMPLATES.render(name, data).html)
    return page


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_data_fits_a_phone_and_adds_no_elements(chromium: Browser, name: str) -> None:
    page = shown(chromium, name, HOSTILE[name], viewport={"width": 375, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    assert page.locator("script, img").count() == 0
    assert page.locator(".card").bounding_box()["width"] <= 375
    page.close()


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("name", HOSTILE)
def test_the_examples_are_readable(chromium: Browser, name: str, colours: str) -> None:
    page = shown(chromium, name, example(name), color_scheme=colours)
    assert page.evaluate(LOW_CONTRAST) == []
    assert page.locator(".card").bounding_box()["width"] == 600
    assert not page.locator(".preheader").is_visible()
    page.close()
