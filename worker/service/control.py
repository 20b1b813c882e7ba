"""Commands of Celery's remote control -> those of a short list are carried out, others refused.

Whoever reaches Redis can send any. Celery's own list has commands that change how a worker works:
`add_consumer`, `pool_grow`, `rate_limit`, `time_limit`, `shutdown`; none of our programs sends one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
import structlog
from celery.worker.control import conf, inspect_command
from kombu.pidbox import Node
from msgspec import Meta

from worker.contract.label_check import CHECK
from worker.contract.redis_address import masked
from worker.contract.text_embeddings import ENCODE

# What Flower's pages and our own programs ask for, and which arguments each has.
COMMANDS: Final[Mapping[str, frozenset[str]]] = {
    "ping": frozenset(),
    "stats": frozenset(),
    "active": frozenset({"safe"}),
    "active_queues": frozenset(),
    "reserved": frozenset(),
    "scheduled": frozenset(),
    "revoked": frozenset(),
    "registered": frozenset({"taskinfoitems"}),
    "conf": frozenset({"with_defaults"}),
    "query_task": frozenset({"ids"}),
    "enable_events": frozenset(),
    "disable_events": frozenset(),
    "revoke": frozenset({"task_id", "terminate", "signal"}),
    ENCODE: frozenset({"pack"}),
    CHECK: frozenset({"labels"}),
}
# Each costs two round trips to Redis, on the main thread.
MOST_REVOKED: Final = 1000
_SHOWN_CHARS: Final = 64
_DETAIL_CHARS: Final = 160

Name = Annotated[str, Meta(max_length=1024)]

log = structlog.get_logger()


class _ReplyTo(msgspec.Struct):
    exchange: Name
    routing_key: Name


class _Call(msgspec.Struct):
    method: str
    arguments: dict[str, Any] | None = None
    destination: list[Name] | None = None
    # A pattern is a regular expression: it may take for ever.
    pattern: None = None
    matcher: None = None
    ticket: Name | None = None
    reply_to: _ReplyTo | None = None


class ControlNode(Node):
    """This worker's end of remote control. What it refuses is logged, and answered with why."""

    def handle_message(self, body: Any, message: Any = None) -> Any:
        """Carry out the command in `body`, if it is for this worker."""
        try:
            call = msgspec.convert(body, _Call)
        except msgspec.ValidationError as e:
            log.warning("control.refused", reason=str(e)[:_DETAIL_CHARS])
            return None
        if message is not None:
            self.adjust_clock(message.headers.get("clock") or 0)
        if call.destination and self.hostname not in call.destination:
            return None
        return self._answer(call)

    def _answer(self, call: _Call) -> Any:
        reply_to = msgspec.to_builtins(call.reply_to)
        if call.reply_to and call.reply_to.exchange != self.mailbox.reply_exchange.name:
            # A reply must not be sent to where other messages lie.
            log.warning("control.refused", command=_shown(call.method), reason="where to reply to")
            return None
        arguments = call.arguments or {}
        if not (reason := refusal(call.method, arguments)):
            return self.dispatch(call.method, arguments, reply_to, call.ticket)
        log.warning("control.refused", command=_shown(call.method), reason=reason)
        reply = {"error": f"refused: {reason}"}
        if reply_to:
            self.reply({self.hostname: reply}, ticket=call.ticket, **reply_to)
        return reply


def refusal(command: str, arguments: Mapping[str, Any]) -> str:
    """Return why a command is refused, or ""."""
    known = COMMANDS.get(command)
    if known is None:
        return "workers do not take this command"
    if not known.issuperset(arguments):
        return "it does not have these arguments"
    if command == "revoke":
        ids = arguments.get("task_id") or []
        if arguments.get("terminate"):
            return "a chunk that has begun cannot be ended; producer cancel ends its job"
        if isinstance(ids, list) and len(ids) > MOST_REVOKED:
            return f"it names more than {MOST_REVOKED} tasks"
    return ""


def hide_secrets() -> None:
    """Let `conf`, which Flower shows, answer without passwords: Celery hides those of some URLs."""

    def masked_conf(state: Any, with_defaults: bool = False) -> Any:  # noqa: FBT001, FBT002 - Celery's
        return _masked(conf(state, with_defaults=with_defaults))

    inspect_command(name="conf")(masked_conf)


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _masked(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(one) for one in value]
    return masked(value) if isinstance(value, str) and "://" in value else value


def _shown(text: str) -> str:
    return text[:_SHOWN_CHARS]
