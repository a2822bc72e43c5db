"""The error of a validator: what was expected, what the variable holds, what to do."""

from __future__ import annotations


class Expected(ValueError):
    """The text is not a value of the variable.

    Attributes:
        what: the expectation, to follow "expected NAME to".
        got: the description of the value; None quotes the value, unless it is a secret.
        advice: what to do about it.
        inside: whether the error is in the file that the variable names.
    """

    def __init__(
        self, what: str, *, got: str | None = None, advice: str = "", inside: bool = False
    ) -> None:
        super().__init__(what)
        self.what = what
        self.got = got
        self.advice = advice
        self.inside = inside

    def line(self, name: str, *, raw: str, secret: bool) -> str:
        """The error in one line: the expectation, the value, the advice.

        Args:
            name: name of the variable.
            raw: its text; not quoted if it is ``secret``.
        """
        subject = f"the content of {name} ({shown(raw)})" if self.inside else name
        got = self.got or ("a value that is not shown" if secret or self.inside else shown(raw))
        advice = f": {self.advice}" if self.advice else ""
        return f"expected {subject} to {self.what}, got {got}{advice}"


def shown(text: str, most: int = 80) -> str:
    """The text in quotes for an error, on one line and cut to ``most`` characters."""
    return repr(text if len(text) <= most else text[:most] + "…")
