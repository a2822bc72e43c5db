"""Renders the body of an e-mail from a template: HTML with inlined CSS, and a text part.

Templates are written by the operator; their data comes from anybody. The sandbox keeps a template
from reaching Python. The limits here keep a mistake in a template, or data that it did not expect,
from using up memory and time. Templates are not run in a process of their own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import local
from typing import Any

import css_inline
import jinja2
import jinja2.meta
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ...core.clock import SYSTEM_CLOCK, Clock
from ...core.errors import ConfigError, InvalidJob
from .plain_text import tidy, to_plain_text
from .schema import TEMPLATE_NAME

#: The templates that ship.
SHIPPED = Path(__file__).parent / "templates"
#: Folder name under which Jinja2 finds a template that ships, also if a file replaces it.
_SHIPPED_PREFIX = "formrelay-shipped"
#: Maximum number of characters of a part. (Gmail cuts messages off at 102 kB.)
MAX_CHARACTERS = 1_000_000
#: Maximum number of seconds for rendering a part.
MAX_SECONDS = 5.0

_INLINER = css_inline.CSSInliner(
    load_remote_stylesheets=False,  # a template must not make the worker call other servers
    keep_style_tags=False,
    keep_at_rules=True,  # media queries: narrow and dark screens
)
_QUOTED = re.compile("'([^']*)'")
#: Maximum nesting depth of elements.
_MAX_DEPTH = 1000
_TAG = re.compile(r"<(/?)([a-z][^\s/>]*)")
#: Elements without an end tag, and elements whose end tag may be omitted.
_UNCLOSED = frozenset([
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track",
    "wbr", "p", "li", "dt", "dd", "tr", "td", "th", "thead", "tbody", "tfoot", "option",
])  # fmt: skip
#: A width in a format string; wider than any column of a text.
_WIDE = re.compile(r"[0-9]{4,}|\*")


@dataclass(frozen=True, slots=True)
class Body:
    """A rendered body."""

    html: str
    text: str


class Templates:
    """The templates of a folder, and the templates that ship. Thread-safe.

    A template ``NAME`` is the file ``NAME.html``. A file ``NAME.txt`` beside it is the text part;
    without one, the text part is made from the HTML. A file of the folder replaces the one of the
    same name that ships, and may extend it by that name.

    Args:
        folder: the operator's templates; None for none.

    Raises:
        ConfigError: the folder does not exist.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        max_characters: int = MAX_CHARACTERS,
        max_seconds: float = MAX_SECONDS,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if folder is not None and not folder.is_dir():
            raise ConfigError(f"expected a folder of templates, got {str(folder)!r}")
        self._folders = [SHIPPED] if folder is None else [folder, SHIPPED]
        self._max_characters = max_characters
        self._limits = _Limits(max_seconds, clock)
        self._loader = jinja2.FileSystemLoader(self._folders)
        shipped = jinja2.PrefixLoader({_SHIPPED_PREFIX: jinja2.FileSystemLoader(SHIPPED)})
        self._all = jinja2.ChoiceLoader([shipped, self._loader])
        self._environment = _Sandbox(self._limits, self._all)

    def names(self) -> list[str]:
        """The names of all templates."""
        found = {path.stem for folder in self._folders for path in folder.glob("*.html")}
        return sorted(name for name in found if re.fullmatch(TEMPLATE_NAME, name))

    def problems(self) -> list[str]:
        """A line for each template that is not valid Jinja2, or extends a missing template.

        Included templates are checked too.
        """
        found = []
        for name in sorted({*self._loader.list_templates()}):
            if name.startswith(".") or not name.endswith((".html", ".txt")):
                continue
            try:
                source = self._loader.get_source(self._environment, name)[0]
                parsed = self._environment.parse(source, name=name, filename=name)
                names = jinja2.meta.find_referenced_templates(parsed)
                used = {self._environment.join_path(each, name) for each in names if each}
                self._environment.get_template(name)  # compiles it
            except jinja2.TemplateSyntaxError as error:
                found.append(str(_wrong(name, error)))
            except (UnicodeDecodeError, OSError) as error:
                found.append(
                    f"expected the template {name!r} to be a text in UTF-8 that can be read, got "
                    f"{type(error).__name__}"
                )
            else:
                found += [
                    f"the template {name!r} builds on {missing!r}, which is missing"
                    for missing in sorted(used - {*self._all.list_templates()})
                ]
        return found

    def example(self, name: str) -> Path | None:
        """The file ``NAME.json`` beside a template: example data for previews."""
        if not re.fullmatch(TEMPLATE_NAME, name):
            return None
        paths = (folder / f"{name}.json" for folder in self._folders)
        return next((path for path in paths if path.is_file()), None)

    def render(self, name: str, data: Mapping[str, Any]) -> Body:
        """Render a template.

        Args:
            data: the variables of the template: JSON values by name.

        Raises:
            InvalidJob: there is no such template, its data lacks a value, it is wrong, too long or
                too slow.
        """
        html = self._render(name, "html", data)
        if _is_deep(html):
            raise InvalidJob(
                f"expected the template {name!r} to make at most {_MAX_DEPTH} elements inside each "
                "other, got more"
            )
        html = _INLINER.inline(html)
        try:
            return Body(html, tidy(self._render(name, "txt", data)))
        except _NoSuchFile:
            return Body(html, to_plain_text(html))

    def _render(self, name: str, suffix: str, data: Mapping[str, Any]) -> str:
        template = self._template(name, suffix)
        chunks: list[str] = []
        left = self._max_characters
        try:
            with self._limits:
                for chunk in template.generate(data):
                    self._limits.check_time()
                    left -= len(chunk)
                    if left < 0:
                        raise _TooMuch(f"at most {self._max_characters} characters")
                    chunks.append(chunk)
        except _TooMuch as error:
            raise InvalidJob(f"expected the template {name!r} to make {error}, got more") from None
        except jinja2.UndefinedError as error:
            missing = self._quoted(name, suffix, error.message)
            raise InvalidJob(
                f"expected data with every value that the template {name!r} uses, got none"
                f"{f' for {missing}' if missing else ''}{_line(error, template)}"
            ) from None
        except jinja2.TemplateNotFound as error:
            raise InvalidJob(
                f"expected every template that the template {name!r} includes to exist, got one "
                f"that does not{_line(error, template)}"
            ) from None
        except jinja2.TemplateSyntaxError as error:
            raise _wrong(name, error) from None
        except RecursionError:
            raise InvalidJob(
                f"expected the template {name!r} to include and extend only templates that do not "
                "lead back to it, got a circle"
            ) from None
        except Exception as error:  # a template may raise anything, with values in its text
            raise InvalidJob(
                f"expected data that the template {name!r} can use, got {type(error).__name__}"
                f"{_line(error, template)}"
            ) from None
        return "".join(chunks)

    def _quoted(self, name: str, suffix: str, message: str | None) -> str:
        """The name that Jinja2's message ends with, if it stands in the template.

        (Otherwise it may be a value of the data, as in ``{{ labels[answer] }}``.)
        """
        source = self._loader.get_source(self._environment, f"{name}.{suffix}")[0]
        found = _QUOTED.findall(message or "")
        return (
            repr(found[-1]) if found and re.search(rf"\b{re.escape(found[-1])}\b", source) else ""
        )

    def _template(self, name: str, suffix: str) -> jinja2.Template:
        if not re.fullmatch(TEMPLATE_NAME, name):
            raise InvalidJob("expected a template's name of letters, digits, '_' and '-'")
        try:
            return self._environment.get_template(f"{name}.{suffix}")
        except jinja2.TemplateNotFound:
            if suffix == "txt":
                raise _NoSuchFile from None
            raise InvalidJob(
                f"expected one of the templates {', '.join(self.names())}, got {name!r}"
            ) from None
        except jinja2.TemplateSyntaxError as error:
            raise _wrong(name, error) from None


class _NoSuchFile(Exception):
    """A template has no text part of its own."""


class _TooMuch(Exception):
    """A template exceeds a limit. The message of the error names the limit."""


class _Limits(local):
    """The time limit of the rendering in this thread. A context manager."""

    def __init__(self, seconds: float, clock: Clock) -> None:
        self._seconds, self._clock = seconds, clock
        self._ends_at = 0.0

    def __enter__(self) -> None:
        self._ends_at = self._clock.monotonic() + self._seconds

    def __exit__(self, *_: object) -> None:
        self._ends_at = 0.0

    def check_time(self) -> None:
        if self._clock.monotonic() > self._ends_at:
            raise _TooMuch(f"its text within {self._seconds:g} s")


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2's sandbox with limits on the result of each expression.

    Jinja2 calls these methods for each operation of a template; a loop over a range calls `_range`.
    """

    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def __init__(self, limits: _Limits, loader: jinja2.BaseLoader) -> None:
        super().__init__(
            loader=loader,
            undefined=jinja2.StrictUndefined,
            autoescape=jinja2.select_autoescape(["html"], default=False),
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._limits = limits
        self.globals["range"] = self._range
        for name in ("center", "format", "indent", "join", "replace", "wordwrap"):
            self.filters[name] = self._checked(self.filters[name])

    def join_path(self, template: str, parent: str) -> str:
        """If a template extends its own name, return the shipped template of that name."""
        return f"{_SHIPPED_PREFIX}/{template}" if template == parent else template

    def _range(self, *bounds: int) -> Iterator[int]:
        for number in range(*bounds):
            self._limits.check_time()
            yield number

    def _checked(self, filter_: Callable[..., Any]) -> Callable[..., Any]:
        def checked(value: Any, *args: Any, **kwargs: Any) -> Any:
            self._check_arguments(value, *args, *kwargs.values())
            return filter_(value, *args, **kwargs)

        # Jinja2 marks filters that take its context as their first argument.
        for mark in vars(filter_):
            setattr(checked, mark, getattr(filter_, mark))
        return checked

    def _check_arguments(self, *values: Any) -> None:
        """Check a text and the arguments of its method or filter."""
        self._limits.check_time()
        size = 1
        for value in values:
            size *= max(1, _size(value))  # replace() and join() may multiply the sizes
            if isinstance(value, int) and abs(value) > MAX_CHARACTERS:
                raise _TooMuch(f"calls with numbers of at most {MAX_CHARACTERS}")
            if isinstance(value, str) and "%" in value and _WIDE.search(value):
                raise _TooMuch("formats of at most 999 characters")
        if size > 100 * MAX_CHARACTERS:
            raise _TooMuch(f"texts of at most {MAX_CHARACTERS} characters")

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, str):
            self._check_arguments(owner, *args, *kwargs.values())
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        self._limits.check_time()
        if operator == "**" and not _is_small(left, right):
            raise _TooMuch("powers of small numbers")
        if operator == "*" and _product_size(left, right) > MAX_CHARACTERS:
            raise _TooMuch(f"texts of at most {MAX_CHARACTERS} characters")
        if operator == "+" and _size(left) + _size(right) > MAX_CHARACTERS:
            raise _TooMuch(f"texts of at most {MAX_CHARACTERS} characters")
        if operator == "%" and isinstance(left, str) and _WIDE.search(left):
            raise _TooMuch("formats of at most 999 characters")
        return super().call_binop(context, operator, left, right)

    def getattr(self, obj: Any, attribute: str) -> Any:
        return self._read(super().getattr, obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        return self._read(super().getitem, obj, argument)

    def _read(self, read: Callable[[Any, Any], Any], obj: Any, name: Any) -> Any:
        self._limits.check_time()
        if isinstance(obj, str) and name in ("format", "format_map"):
            raise _TooMuch("formats with the filter `format`, whose widths are limited")
        value = read(obj, name)
        if _size(value) > MAX_CHARACTERS:  # a namespace may collect a text in a loop
            raise _TooMuch(f"texts of at most {MAX_CHARACTERS} characters")
        return value


def _size(value: object) -> int:
    return len(value) if isinstance(value, str | list | tuple | bytes) else 0


def _product_size(left: object, right: object) -> int:
    """The length of a repeated text or list; of two whole numbers, the digits of the product."""
    if isinstance(left, int) and isinstance(right, int):
        return (left.bit_length() + right.bit_length()) // 3
    size = max(_size(left), _size(right))
    return size * max(number for number in (left, right, 0) if isinstance(number, int))


def _is_small(base: object, exponent: object) -> bool:
    return all(isinstance(each, int | float) and abs(each) <= 1000 for each in (base, exponent))


def _wrong(name: str, error: jinja2.TemplateSyntaxError) -> InvalidJob:
    return InvalidJob(
        f"expected the template {name!r} to be a Jinja2 template, got an error in line"
        f" {error.lineno} of {Path(error.name or name).name}: {error.message}"
    )


def _line(error: BaseException, template: jinja2.Template) -> str:
    """The line of the template that raised an error, as Jinja2 writes it into the traceback."""
    frame, line = error.__traceback__, 0
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == template.filename:
            line = frame.tb_lineno
        frame = frame.tb_next
    return f" (line {line})" if line else ""


def _is_deep(html: str) -> bool:
    """Whether elements are nested too deeply: the inliner would crash the process."""
    depth, opened = 0, Counter[str]()
    tags = _TAG.findall(html.lower())
    # Inside <svg> and <math>, every element needs its end tag.
    unclosed = frozenset() if {("", "svg"), ("", "math")} & {*tags} else _UNCLOSED
    for is_end, name in tags:
        if name in unclosed:
            continue
        if not is_end:
            opened[name] += 1
            depth += 1
        elif opened[name]:
            opened[name] -= 1
            depth -= 1
        if depth > _MAX_DEPTH:
            return True
    return False
