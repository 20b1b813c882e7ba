"""Types of click's options for numbers within limits; what is none is refused in a sentence."""

from __future__ import annotations

import math
from typing import Any, Final

import click

from worker.contract.i18n import gettext as _
from worker.contract.i18n import gettext_noop as N_

# What is wanted: by the lowest, by the highest, and by both.
_WHOLE: Final = {
    (True, False): N_("a whole number from {least} up"),
    (True, True): N_("a whole number from {least} to {most}"),
}
_ANY: Final = {
    (True, False): N_("a number from {least} up"),
    (True, True): N_("a number from {least} to {most}"),
}
_ABOVE: Final = N_("a number above {least}")
_BELOW: Final = N_("a number from {least} to less than {most}")


class Whole(click.IntRange):
    """A whole number, from `min` to `max`."""

    name = "n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number.

        Raises:
            click.BadParameter: it is none, or out of the range.
        """
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as e:
            wanted = _(_WHOLE[self.min is not None, self.max is not None])
            raise _refusal(value, wanted.format(least=self.min, most=self.max), param, ctx) from e


class Number(click.FloatRange):
    """A finite number, from `min` to `max`."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number.

        Raises:
            click.BadParameter: it is none, such as nan, or out of the range.
        """
        try:
            found = super().convert(value, param, ctx)
        except click.BadParameter as e:
            raise _refusal(value, self._wanted(), param, ctx) from e
        if not math.isfinite(found):
            raise _refusal(value, self._wanted(), param, ctx)
        return found

    def _wanted(self) -> str:
        message = _ANY[self.min is not None, self.max is not None]
        if self.min_open or self.max_open:
            message = _ABOVE if self.min_open else _BELOW
        least, most = (None if one is None else f"{one:g}" for one in (self.min, self.max))
        return _(message).format(least=least, most=most)


def _refusal(
    value: object, wanted: str, param: click.Parameter | None, ctx: click.Context | None
) -> click.BadParameter:
    message = _("{value} is not {wanted}").format(value=repr(str(value)), wanted=wanted)
    return click.BadParameter(message, ctx, param)
