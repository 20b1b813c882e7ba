"""The process that decode processes are forked from: it has loaded what they need, no more.

    python -m worker.images.isolated.server HANDLE     (a socket; started by `fork_server.py`)

It is small, has one thread, knows no secrets and does no work: what is forked from it is ready at
once and shares its memory.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Final

import msgspec
import torch

from worker.images.decode import set_up
from worker.images.decoder import DecodeConfig
from worker.images.isolated.fork_server import READY
from worker.images.isolated.limits import (
    be_called,
    die_with_parent,
    limit_process,
    silence_libraries,
)
from worker.images.isolated.process import DecodeProcess
from worker.images.isolated.wire import MAX_ORDER_BYTES, SharedPixels
from worker.malloc import disable_malloc_trim

# What a process keeps when it has decoded something large.
KEPT_BYTES: Final = 64 * 1024 * 1024


def main() -> None:
    """Serve the worker at the other end of a socket."""
    serve(socket.socket(fileno=int(sys.argv[1])))


def serve(control: socket.socket) -> None:
    """Fork a process whenever its three handles come, until the worker is gone."""
    # A warm stop ends the worker in its own order; this ends when the worker closes its side.
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    # Nobody asks how they ended: what their pipes say is enough.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    be_called("wanwu-decoders")
    torch.set_num_threads(1)
    message = control.recv(MAX_ORDER_BYTES)
    if not message:
        return
    config = msgspec.msgpack.decode(message, type=DecodeConfig)
    disable_malloc_trim(KEPT_BYTES)
    set_up(config.max_pixels)
    lock = os.memfd_create("wanwu-pixel-locks")
    control.send(READY)
    while True:
        message, handles, _, _ = socket.recv_fds(control, 16, 3)
        if not message:
            return
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as e:  # Of this user there are too many processes, or memory is short.
            control.send(str(e).encode())
        else:
            if not pid:
                die_with_parent(parent)
                _be_decoder(control, handles, lock, config)
            handles.append(os.pidfd_open(pid))
            socket.send_fds(control, [str(pid).encode()], handles[-1:])
        for handle in handles:
            os.close(handle)


def _be_decoder(
    control: socket.socket, handles: list[int], lock: int, config: DecodeConfig
) -> None:
    """Decode until the worker is gone. Never returns."""
    code = 1
    try:
        control.close()
        silence_libraries()
        be_called("wanwu-decode")
        limit_process(config.memory_bytes)
        orders, replies, memory = handles
        shared = SharedPixels(memory, config.preprocessing)
        os.close(memory)
        answer = Connection(replies, readable=False).send_bytes
        DecodeProcess(config, socket.socket(fileno=orders), answer, shared, lock).run()
        code = 0
    except BrokenPipeError:
        code = 0
    except BaseException:  # noqa: BLE001 - the last place where anything can be said
        traceback.print_exc()
    finally:
        # Without what belongs to the server: exit handlers, buffers.
        os._exit(code)


if __name__ == "__main__":
    main()
