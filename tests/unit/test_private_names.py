"""What is overridden or used of kombu's and Celery's insides: when they change, this says so first.

Both are held below their next minor version for these names' sake. Before a newer one is allowed,
look at each name below in its source.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from typing import Any

import celery.app.control
import celery.worker.consumer
import kombu.transport.redis
import kombu.transport.virtual
import pytest
from conftest import ROOT

from worker.contract.queue.acks_and_leases import Leases
from worker.contract.queue.connecting import ConnectingChannel, ConnectingTransport
from worker.contract.queue.control import BoundMailbox, OwnConnections
from worker.contract.queue.prefixed_channel import PrefixedChannel
from worker.contract.queue.transport import Channel, Transport
from worker.service.app import ModelStep
from worker.service.bootsteps import STEPS
from worker.service.control import ControlNode
from worker.service.reconnect import ReconnectingConsumer
from worker.service.result_backend import ChunkResults
from worker.service.task import ChunkRequest, TagTask

# Private methods that a class of ours replaces, as the library has them.
OVERRIDDEN: dict[type, dict[str, str]] = {
    PrefixedChannel: {
        # Names with our prefix.
        "_q_for_pri": "(self, queue, pri)",
        "_get_publish_topic": "(self, exchange, routing_key)",
    },
    Channel: {
        # One client for all that is not waited for, instead of one for each command.
        "_create_client": "(self, asynchronous=False)",
        # Urgent messages to the head of the queue.
        "_put": "(self, queue, message, **kwargs)",
        # Of all jobs' lists.
        "_size": "(self, queue)",
        "_purge": "(self, queue)",
        # A script or BLMOVE instead of BRPOP: a message is never nowhere.
        "_brpop_start": "(self, timeout=None)",
        "_brpop_read": "(self, **options)",
        # Sizes and shapes are looked at before anything is parsed.
        "_receive_one": "(self, c)",
    },
    ConnectingChannel: {
        # Pools of ours, by a URL that kombu need not understand.
        "_get_pool": "(self, asynchronous=False)",
    },
    ChunkResults: {
        # Stores and counts in one step, and waits for a Redis that cannot store.
        "_store_result": ("(self, task_id, result, state, traceback=None, request=None, **kwargs)"),
        # Clients of ours, by a URL that Celery need not understand.
        "_params_from_url": "(self, url, defaults)",
        "_create_client": "(self, **params)",
    },
}
# Private parts that a class of ours uses as its own.
INHERITED: dict[type, set[str]] = {
    # Which connections kombu's poller is to forget.
    ConnectingChannel: {"_on_connection_disconnect"},
    # What kombu's poller asks of a channel that waits for a message.
    Channel: {
        *("_in_poll", "_brpop_sent_at", "_closing", "_flush_brpop_reauth"),
        # What kombu does with a command or an event that it has read.
        *("_in_listen", "_handle_message", "_deliver_fanout_message"),
    },
    # The messages held, those acknowledged meanwhile, and kombu's own removal of one.
    Leases: {"_delivered", "_dirty", "_remove_from_indices"},
    # What the backend writes as a task's result.
    ChunkResults: {"_get_result_meta"},
}
# Private parts of other objects: where they are, and why they are used.
USED: dict[str, Any] = {
    # A message as it came, to be put back.
    "_raw": kombu.transport.virtual.Message,
    # Hands a message to its consumer.
    "_deliver": kombu.transport.virtual.Transport,
    # Publishes events that have gathered.
    "_flush_events": celery.worker.consumer.Consumer,
    # The way to remote control commands of one's own.
    "_request": celery.app.control.Inspect,
}
# Public methods that a class of ours replaces.
PUBLIC: dict[type, set[str]] = {
    Channel: {"QoS", "conn_or_acquire"},
    PrefixedChannel: {
        "from_transport_options",
        *("unacked_key", "unacked_index_key", "keyprefix_queue"),
        *("keyprefix_binding_deadlines", "keyprefix_binding_permanent"),
    },
    ControlNode: {"handle_message"},
    OwnConnections: {"Mailbox", "broadcast"},
    BoundMailbox: set(),
    ConnectingChannel: {"from_transport_options"},
    ConnectingTransport: {"as_uri", "can_parse_url", "supports_batch_publish"},
    Transport: {"Channel"},
    Leases: {
        *("ack", "append", "can_consume", "reject", "restore_unacked", "restore_visible"),
        "restore_by_tag",
    },
    ChunkRequest: {"acknowledge", "send_event"},
    TagTask: {"Request", "on_success", "run", "throws"},
    ReconnectingConsumer: {
        *("connect", "on_connection_error_after_connected"),
        "on_connection_error_before_connected",
    },
    ChunkResults: set(),
    ModelStep: {"info", "requires", "start"},
}
CLASSES = (*PUBLIC, *STEPS)
FOREIGN = ("kombu.", "celery.")


def foreign_bases(kind: type) -> list[type]:
    return [base for base in kind.__mro__ if base.__module__.startswith(FOREIGN)]


def has(bases: list[type], name: str) -> bool:
    return any(hasattr(base, name) for base in bases)


def definition(kind: type) -> ast.ClassDef:
    """Return the source of a class; `inspect` finds none of Celery's steps, which it renames."""
    tree = ast.parse(inspect.getsource(sys.modules[kind.__module__]))
    (found,) = (
        node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind.__name__
    )
    return found


def private_names(kind: type) -> Iterator[str]:
    """Yield the private names of its bases that a class mentions."""
    bases = foreign_bases(kind)
    for node in ast.walk(definition(kind)):
        name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "name", None)
        if isinstance(name, str) and re.match(r"_[^_]", name) and has(bases, name):
            yield name


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_private_name_that_a_class_has_of_its_bases_is_listed(kind: type) -> None:
    listed = {*OVERRIDDEN.get(kind, {}), *INHERITED.get(kind, set())}
    assert set(private_names(kind)) == listed


@pytest.mark.parametrize("kind", PUBLIC, ids=lambda kind: kind.__name__)
def test_every_public_name_that_a_class_replaces_is_listed(kind: type) -> None:
    # Celery's metaclass gives each step a name.
    own = {name for name in vars(kind) if not name.startswith("_")} - {"name"}
    bases = foreign_bases(kind)
    assert {name for name in own if has(bases, name)} == PUBLIC[kind]


@pytest.mark.parametrize(
    ("kind", "name", "signature"),
    [(kind, name, found) for kind, names in OVERRIDDEN.items() for name, found in names.items()],
)
def test_what_is_overridden_has_the_signature_that_it_had(
    kind: type, name: str, signature: str
) -> None:
    original = getattr(foreign_bases(kind)[0], name)
    assert str(inspect.signature(original)) == signature


def test_private_parts_of_other_objects_are_listed_and_there() -> None:
    lines = [
        line
        for directory in ("worker/contract", "worker/service", "producer")
        for file in (ROOT / directory).rglob("*.py")
        for line in file.read_text(encoding="utf-8").splitlines()
        if "SLF001" in line
    ]
    found = {name for line in lines for name in re.findall(r"\b(?!self)\w+\.(_[a-z]\w*)", line)}
    # Flower's are tried by its own tests.
    assert found - {"_fields", "_info_fields"} == set(USED)
    for name, owner in USED.items():
        assert name in inspect.getsource(owner), name
