"""Descriptions and patterns of the fields in the JSON Schema of ``webhook.send``.

The worker's own checks are in :mod:`.actor`. The patterns repeat them as ECMA 262 regular
expressions, so that publishers can validate a job before they send it.
"""

from __future__ import annotations

from pydantic.config import JsonDict

from ...sinks.http import RESERVED_HEADERS
from ..model import only


def _in_any_case(name: str) -> str:
    return "".join(f"[{one}{one.upper()}]" if one.isalpha() else one for one in name)


#: Either ``secret`` or ``secrets``.
WEBHOOK: JsonDict = {
    "oneOf": [
        {"required": ["secret"], "properties": {"secret": {"type": "string"}}},
        {"required": ["secrets"], "properties": {"secrets": {"type": "array"}}},
    ]
}

URL_IS = "https; http only where the workers are told to allow it. No user and password in it."
URL: JsonDict = {
    "pattern": r"^(?![\s\S]*([\x00-\x1f\x7f\\]|\s$))[hH][tT][tT][pP][sS]?://"
    r"([^/?#@\s:\[\]]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{0,5})?([/?#]|$)",
}

HEADERS_ARE = (
    "Of your own. The connection's, `content-length`, `host` and `webhook-*` are refused, "
    "and so is a name that comes twice in other cases."
)
_NOT_YOURS = "|".join(_in_any_case(name) for name in sorted(RESERVED_HEADERS))
HEADERS: JsonDict = {
    "maxProperties": 64,
    "propertyNames": {
        "minLength": 1,
        "allOf": [
            {**only(r"0-9A-Za-z!#$%&'*+.^_`|~\-")},
            {"not": {"pattern": f"^({_NOT_YOURS})$"}},
            {"not": {"pattern": f"^{_in_any_case('webhook-')}"}},
        ],
    },
    "additionalProperties": {"type": "string", **only(r"\t\x20-\x7e\x80-\xff")},
}

_BASE64 = "[A-Za-z0-9+/]"
_KEY: JsonDict = {
    "minLength": 1,
    "pattern": r"^(?!whsec_)[\s\S]*\S|"
    f"^whsec_(?!$)({_BASE64}{{4}})*({_BASE64}{{2}}(==)?|{_BASE64}{{3}}=?)?$",
}
SECRET_IS = "`whsec_` and base64, or any text, which is used as its UTF-8 bytes."  # noqa: S105 - words about one
SECRET: JsonDict = _KEY
SECRETS_ARE = "Instead of `secret`, several while a key is rotated; the current one first."
SECRETS: JsonDict = {"minItems": 1, "items": {"type": "string", **_KEY}}

STYLE_IS = (
    "`standard`: the headers `webhook-id`, `webhook-timestamp` and `webhook-signature` of Standard "
    "Webhooks. `stripe`: with `stripe-signature` beside them, for receivers that expect it."
)

#: Printable ASCII without ``.``, which separates the parts of the signed text.
ID: JsonDict = {**only(r"\x20-\x2d\x2f-\x7e")}
