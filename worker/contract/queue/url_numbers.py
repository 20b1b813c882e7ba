"""URLs with passwords <-> numbers that stand for them in the settings of Celery and kombu.

Workers send those settings to whoever asks (`inspect stats`, Flower), and kombu shares connections
between apps whose settings look alike: a URL without its password does, a number does not.
"""

from __future__ import annotations

from typing import Any, Final

from worker.contract.secret import SecretUrl

# The option of our transport and of our result backend.
URL_NUMBER: Final = "url_number"

_URLS: Final[dict[SecretUrl, int]] = {}
_BY_NUMBER: Final[dict[int, SecretUrl]] = {}


def number_of(url: SecretUrl) -> int:
    """Return the number of a URL in this process."""
    number = _URLS.setdefault(url, len(_URLS))
    _BY_NUMBER[number] = url
    return number


def url_of(number: int) -> SecretUrl:
    """Return the URL that has this number in this process."""
    return _BY_NUMBER[number]


def broker_url_of(app: Any) -> SecretUrl:
    """Return the URL of an app's queue."""
    return url_of(app.conf.broker_transport_options[URL_NUMBER])


def result_url_of(app: Any) -> SecretUrl:
    """Return the URL of an app's results."""
    return url_of(app.conf.result_backend_transport_options[URL_NUMBER])
