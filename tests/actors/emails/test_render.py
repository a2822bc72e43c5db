"""The templates of e-mails: what they make, and what a mistake in one of them cannot do."""

from __future__ import annotations

from pathlib import Path

import pytest

from formrelay.actors.emails.render import Templates
from formrelay.core.errors import ConfigError, InvalidJob

NOTICE = {"formTitle": "Jobs", "answers": {"Name": "Ann"}}
SHIPPED = {
    "submission_notice": NOTICE,
    "autoresponse": {"title": "Thanks", "message": "Hi"},
    "digest": {"period": "of today", "forms": [{"title": "Jobs", "count": 3}]},
    "dead_letter_notice": {
        "queue": "emails",
        "count": 1,
        "letters": [{"id": "a1", "actor": "send_email", "reason": "permanent", "error": "550"}],
    },
}

DOUBLING = (
    "{{% set n = namespace(x='ab') %}}"
    "{{% for i in range(40) %}}{{% set n.x = {} %}}{{% endfor %}}{{{{ n.x }}}}"
)


def templates(folder: Path, /, **files: str) -> Templates:
    for name, text in files.items():
        stem, _, suffix = name.rpartition("_")
        (folder / f"{stem}.{suffix}").write_text(text)
    return Templates(folder, max_characters=10_000, max_seconds=0.5)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_template_that_ships_makes_html_and_text(name: str) -> None:
    body = Templates().render(name, SHIPPED[name])
    assert body.html.startswith("<!DOCTYPE html>")
    assert 'style="' in body.html  # its CSS is inlined
    assert "@media (prefers-color-scheme: dark)" in body.html
    assert "<" not in body.text
    assert body.text.strip()


@pytest.mark.parametrize("word", ["extends", "include"])
def test_templates_in_a_circle_are_refused(tmp_path: Path, word: str) -> None:
    found = templates(
        tmp_path, a_html=f"{{% {word} 'b.html' %}}", b_html=f"{{% {word} 'a.html' %}}"
    )
    with pytest.raises(InvalidJob, match="got a circle"):
        found.render("a", {})


@pytest.mark.parametrize("name", SHIPPED)
def test_a_template_that_ships_needs_its_data(name: str) -> None:
    with pytest.raises(InvalidJob, match="expected data with every value"):
        Templates().render(name, {})


def test_every_template_that_ships_is_known() -> None:
    assert Templates().names() == sorted(SHIPPED)


def test_html_in_an_answer_is_shown_as_text() -> None:
    answers = {"<i>Name</i>": "<script>alert(1)</script>"}
    body = Templates().render("submission_notice", NOTICE | {"answers": answers})
    assert "<script>" not in body.html
    assert "<i>" not in body.html
    assert "<script>alert(1)</script>" in body.text


def test_an_answer_is_not_a_template() -> None:
    body = Templates().render("submission_notice", NOTICE | {"answers": {"x": "{{ 7 * 7 }}"}})
    assert "{{ 7 * 7 }}" in body.text


def test_answers_of_every_type_are_readable() -> None:
    answers = {"a": None, "b": True, "c": ["x", "y"], "d": {"name": "cv.pdf", "size": 3}, "e": 1.5}
    text = Templates().render("submission_notice", NOTICE | {"answers": answers}).text
    shown = "a\n–\n\nb\nyes\n\nc\nx, y\n\nd\nname: cv.pdf, size: 3\n\ne\n1.5\n"
    assert text.endswith(shown)


def test_a_template_of_the_folder_stands_for_one_that_ships(tmp_path: Path) -> None:
    body = templates(tmp_path, autoresponse_html="<p>mine</p>").render("autoresponse", {})
    assert body.text == "mine\n"


def test_a_text_file_beside_the_html_is_the_text_part(tmp_path: Path) -> None:
    found = templates(tmp_path, a_html="<p>{{ x }}</p>", a_txt="Text: {{ x }}")
    assert found.render("a", {"x": "<&>"}).text == "Text: <&>\n"


def test_links_are_kept_in_the_text_part(tmp_path: Path) -> None:
    found = templates(tmp_path, a_html='<a href="https://x.example/?a=1">here</a>')
    assert found.render("a", {}).text == "here <https://x.example/?a=1>\n"


def test_a_line_of_the_text_part_has_at_most_72_characters(tmp_path: Path) -> None:
    url = f"https://x.example/{'a' * 80}"
    table = f"<table><tr><td>12<td><a href={url}>{'word ' * 20}</a></table>"
    text = templates(tmp_path, a_html=f"<p>{'word ' * 20}</p>{table}").render("a", {}).text
    assert text.splitlines() == [
        " ".join(["word"] * 14),
        " ".join(["word"] * 6),
        "",
        f"12  {' '.join(['word'] * 13)}",
        f"    {' '.join(['word'] * 7)}",
        f"    <{url}>",
    ]


def test_cells_of_layout_tables_are_paragraphs_of_the_text_part(tmp_path: Path) -> None:
    inner = "<table><tr><th>a<th>b<tr><td>c<td>d</table>"
    layout = f"<table role=presentation><tr><td>1<div>2</div><td>3<tr><td>{inner}</table>"
    text = templates(tmp_path, a_html=layout).render("a", {}).text
    assert text == "1\n2\n\n3\n\na  b\nc  d\n"


def test_hidden_text_is_not_in_the_text_part() -> None:
    body = Templates().render("autoresponse", SHIPPED["autoresponse"] | {"message": "Only once"})
    assert body.html.count("Only once") == 2  # in the preheader too
    assert body.text.count("Only once") == 1


@pytest.mark.parametrize("html", ["", " \n", "<!-- a -->"])
def test_html_without_text_makes_an_empty_text_part(tmp_path: Path, html: str) -> None:
    assert templates(tmp_path, a_html=html).render("a", {}).text.strip() == ""


@pytest.mark.parametrize("optional", [None, ""])
def test_optional_values_may_be_empty(optional: str | None) -> None:
    empty = dict.fromkeys(["submittedAt", "url", "lang", "formTitle"], optional)
    letter = SHIPPED["dead_letter_notice"]["letters"][0] | {"at": optional}
    for name, data in SHIPPED.items():
        given = empty | data | ({"letters": [letter]} if "letters" in data else {})
        text = Templates().render(name, given).text
        assert "None" not in text
        assert "<>" not in text


def test_a_template_can_replace_the_words_of_one_that_ships(tmp_path: Path) -> None:
    source = '{% extends "autoresponse.html" %}{% block reason %}Grund{% endblock %}'
    data = SHIPPED["autoresponse"] | {"lang": "de-AT"}
    body = templates(tmp_path, danke_html=source).render("danke", data)
    assert body.text == "Thanks\n\nHi\n\nGrund\n"
    assert '<html lang="de-AT" dir="ltr">' in body.html


def test_a_file_may_replace_the_template_that_it_extends(tmp_path: Path) -> None:
    frame = '{% extends "_layout.html" %}{% block preheader %}Vorschau{% endblock %}'
    source = '{% extends "autoresponse.html" %}{% block reason %}Grund{% endblock %}'
    found = templates(tmp_path, autoresponse_html=source)
    assert found.problems() == []
    assert found.render("autoresponse", SHIPPED["autoresponse"]).text == "Thanks\n\nHi\n\nGrund\n"
    mine = '{% extends "_layout.html" %}{% block content %}Hallo{% endblock %}'
    found = templates(tmp_path, _layout_html=frame, mine_html=mine)
    assert found.problems() == []
    html = found.render("mine", {}).html
    assert "Vorschau" in html
    assert "Hallo" in html


def test_a_template_that_extends_itself_alone_is_told(tmp_path: Path) -> None:
    found = templates(tmp_path, mine_html='{% extends "mine.html" %}')
    (line,) = found.problems()
    assert line == (
        "the template 'mine.html' builds on 'formrelay-shipped/mine.html', which is missing"
    )
    with pytest.raises(InvalidJob, match=r"every template .* to exist"):
        found.render("mine", {})


def test_an_example_of_the_folder_stands_for_one_that_ships(tmp_path: Path) -> None:
    found = templates(tmp_path, digest_json="{}", mine_html="a")
    assert found.example("digest") == tmp_path / "digest.json"
    assert found.example("autoresponse") is not None
    assert found.example("mine") is found.example("../mine") is None


def test_stylesheets_of_other_servers_are_not_loaded(tmp_path: Path) -> None:
    link = '<link rel="stylesheet" href="http://127.0.0.1:9/a.css"><p>a</p>'
    assert templates(tmp_path, a_html=link).render("a", {}).text == "a\n"


@pytest.mark.parametrize(
    "name", ["", "../secret", "a/b", ".hidden", "_layout", "a.html", "a\x00", "ä", "a" * 101]
)
def test_a_name_that_is_no_template_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidJob, match="a template's name"):
        Templates().render(name, {})


def test_an_unknown_template_is_answered_with_the_names(tmp_path: Path) -> None:
    with pytest.raises(InvalidJob, match="autoresponse, dead_letter_notice, digest, mine, sub"):
        templates(tmp_path, mine_html="a").render("other", {})


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a folder of templates"):
        Templates(tmp_path / "none")


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'x' * 10**9 }}",
        "{{ 10**9 * 'x' }}",
        "{{ [0] * 10**9 }}",
        "{{ 9**9**9 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '%1000000000d'|format(1) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, 1000000000) }}",
        "{{ ''['format'] }}",
        "{{ '{:1000000000}'|attr('format')(1) }}",
        "{{ ('x' * 100000)|replace('x', 'y' * 100000) }}",
        "{{ ('x' * 100000).replace('x', 'y' * 100000) }}",
        "{{ ([0] * 100000)|join('y' * 100000) }}",
        "{{ 'x'|center(1000000000) }}",
        "{{ 'x\ny'|indent(1000000000) }}",
        "{{ 'x'.ljust(1000000000) }}",
        "{{ 'x'.zfill(1000000000) }}",
        DOUBLING.format("n.x + n.x"),
        DOUBLING.format("n.x ~ n.x"),
        DOUBLING.format("n.x|replace('', n.x)"),
        "{% for i in range(99999) %}abc{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(999999999) %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_a_template_that_makes_too_much_is_stopped(tmp_path: Path, source: str) -> None:
    with pytest.raises(InvalidJob):
        templates(tmp_path, a_html=source).render("a", {})


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ self.__init__ }}",
        "{{ items.append(1) }}",
        "{{ x|attr('__class__') }}",
        "{% include '/etc/hostname' %}",
        "{% include '../secret.html' %}",
    ],
)
def test_a_template_cannot_leave_the_sandbox(tmp_path: Path, source: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret.html").write_text("secret")
    with pytest.raises(InvalidJob):
        templates(folder, a_html=source).render("a", {"items": [], "x": "y"})


@pytest.mark.parametrize(
    "source",
    ["{{ labels[answer] }}", "{% include answer %}", "{{ answer + 1 }}", "{{ answer / 2 }}"],
)
def test_an_error_quotes_no_value(tmp_path: Path, source: str) -> None:
    with pytest.raises(InvalidJob) as raised:
        templates(tmp_path, a_html=f"\n{source}").render("a", {"labels": {}, "answer": "Ann K."})
    assert "Ann" not in str(raised.value)
    assert "line 2" in str(raised.value)


def test_arithmetic_works(tmp_path: Path) -> None:
    source = "{{ 3_000_000 * 2_000_000 }} {{ '%.2f' % 3.14159 }} {{ 2 ** 10 }} {{ 1 + 2 }}"
    assert templates(tmp_path, a_html=source).render("a", {}).text == "6000000000000 3.14 1024 3\n"


def test_an_error_in_a_template_names_its_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidJob, match=r"an error in line 2 of a\.html"):
        templates(tmp_path, a_html="\n{% if %}").render("a", {})


@pytest.mark.parametrize("tags", ["<div>", "<b></div>", "<DIV a>", "<x/>"])
def test_html_that_would_crash_the_inliner_is_refused(tmp_path: Path, tags: str) -> None:
    found = templates(tmp_path, a_html="{{ x|safe }}")
    with pytest.raises(InvalidJob, match="at most 1000 elements inside each other"):
        found.render("a", {"x": tags * 1100})
    with pytest.raises(InvalidJob, match="at most 1000 elements inside each other"):
        found.render("a", {"x": "<svg>" + "<td>" * 1100})


def test_html_without_end_tags_is_not_deep(tmp_path: Path) -> None:
    found = templates(tmp_path, a_html="{{ x|safe }}")
    text = found.render("a", {"x": "<p>a<br>" * 500 + "<ul>" + "<li>b" * 600 + "</ul>"}).text
    assert text.count("b") == 600
