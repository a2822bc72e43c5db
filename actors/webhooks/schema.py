"""Descriptions and patterns of the fields in the JSON Schema of ``webhook.send``.

The worker's own checks are in :mod:`.actor`. The patterns repeat them as ECMA 262 regular
expressions, so that publishers can validate a job before they send it.
"""

from __future__ import annotations

from pydantic.config import JsonDict

from ...sinks.http import RESERVED_HEADERS
from ..model import only


def _ignoring_case(name: str) -> str:
    return "".join(f"[{char}{char.upper()}]" if char.isalpha() else char for char in name)


#: Requires either ``secret`` or ``secrets``.
WEBHOOK: JsonDict = {
    "oneOf": [
        {"required": ["secret"], "properties": {"secret": {"type": "string"}}},
        {"required": ["secrets"], "properties": {"secrets": {"type": "array"}}},
    ]
}

URL_HELP = "An https URL without user and password. http needs WEBHOOK_ALLOW_HTTP in the workers."
URL: JsonDict = {
    "pattern": r"^(?![\s\S]*([\x00-\x1f\x7f\\]|\s$))[hH][tT][tT][pP][sS]?://"
    r"([^/?#@\s:\[\]]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{0,5})?([/?#]|$)",
}

HEADERS_HELP = (
    "Additional headers. Refused: hop-by-hop headers, `content-encoding`, `content-length`, "
    "`expect`, `host`, `webhook-*`, and names that differ only in case. A "
    "`content-type` must be JSON: `application/json`, or a type that ends in `+json`."
)
_RESERVED = "|".join(_ignoring_case(name) for name in sorted(RESERVED_HEADERS))
_JSON_TYPE = (
    rf"^[ \t]*({_ignoring_case('application')}|{_ignoring_case('text')})/"
    rf"([A-Za-z0-9!#$&^_.+-]+\+)?{_ignoring_case('json')}[ \t]*(;|$)"
)
HEADERS: JsonDict = {
    "maxProperties": 64,
    "propertyNames": {
        "minLength": 1,
        "allOf": [
            {**only(r"0-9A-Za-z!#$%&'*+.^_`|~\-")},
            {"not": {"pattern": f"^({_RESERVED})$"}},
            {"not": {"pattern": f"^{_ignoring_case('webhook-')}"}},
        ],
    },
    "patternProperties": {
        f"^{_ignoring_case('content-type')}$": {
            "type": "string",
            **only(r"\t\x20-\x7e\x80-\xff"),
            "allOf": [{"pattern": _JSON_TYPE}],
        }
    },
    "additionalProperties": {"type": "string", **only(r"\t\x20-\x7e\x80-\xff")},
}

_BASE64 = "[A-Za-z0-9+/]"
#: Not the start of a text: it is another kind of key, or a misspelled prefix.
_ENCODED = (
    f"({_ignoring_case('v1')}[aA]?,|{_ignoring_case('whsec')}[_-]|{_ignoring_case('whsk')}[_-]"
    f"|{_ignoring_case('whpk')}[_-])"
)
_KEY: JsonDict = {
    "minLength": 1,
    "pattern": rf"^(?!{_ENCODED})(?![\s\S]*[\x00-\x1f\x7f])(?!\s)(?![\s\S]*\s$)[\s\S]|"
    rf"^(v1,)?whsec_(?!$)(?![\s\S]*\n)({_BASE64}{{4}})*({_BASE64}{{2}}(==)?|{_BASE64}{{3}}=?)?$",
}
SECRET_HELP = "`whsec_` and base64, or any text: its UTF-8 bytes are the key."  # noqa: S105 - no secret
SECRET: JsonDict = _KEY
SECRETS_HELP = "Instead of `secret` during a key rotation: all valid secrets, newest first."
SECRETS: JsonDict = {"minItems": 1, "items": {"type": "string", **_KEY}}

STYLE_HELP = (
    "`standard`: the headers `webhook-id`, `webhook-timestamp` and `webhook-signature` of Standard "
    "Webhooks. `stripe`: the same, and `stripe-signature`."
)

#: Printable ASCII without ``.``, which separates the parts of the signed text.
ID: JsonDict = {**only(r"\x20-\x2d\x2f-\x7e")}
