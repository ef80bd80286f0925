"""What a recipient may see as the sender of an SMS: a number, or a name.

Source: 3GPP TS 23.040, 9.1.2.5, of whose alphabet only what carriers agree on is let through.
"""

from __future__ import annotations

import re
from typing import Final

RULE: Final = (
    "must be a number such as +6598765432, a short code of 3 to 8 digits, or a name of 1 to 11 letters (a to z), digits"
    " and inner spaces"
)

_NUMBER: Final = re.compile(r"\+[1-9][0-9]{4,14}|[0-9]{3,8}")
# More digits than a short code has would be a number without its country.
_NAME: Final = re.compile(r"(?=.*[A-Za-z])(?! )[A-Za-z0-9 ]{1,11}(?<! )")


def is_sender(text: str) -> bool:
    """Tell whether a message can be sent from this: a number in E.164, a short code, or a name with a letter."""
    return bool(_NUMBER.fullmatch(text) or _NAME.fullmatch(text))
