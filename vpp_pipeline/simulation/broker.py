"""An MQTT broker of our own on the loopback: mosquitto where installed, else amqtt.

Belongs here: starting, finding and stopping it. Does not: clients or topics, who may do what on
it (`broker_access`; amqtt knows no roles and lets in anybody on this machine). Run as a module
(`python -m vpp_pipeline.simulation.broker PORT`) it is the amqtt broker itself.

Both brokers live as long as their standard input is open. This process holds the other end, so
that they die with it, however it dies.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vpp_pipeline.simulation.broker_access import BrokerAccess

_LOG = logging.getLogger(__name__)
HOST = "127.0.0.1"
_START_TIMEOUT_S = 60.0  # amqtt is slow to import, the slower the busier the machine
_STOP_TIMEOUT_S = 5.0

# Saved every other second: saving on each change was measured at 20 ms a message.
_MOSQUITTO_CONFIG = """\
listener {port} {host}
set_tcp_nodelay true
max_queued_messages 100000
max_inflight_messages 1000
persistence true
persistence_location {directory}/
autosave_interval 2
log_dest file {directory}/mosquitto.log
log_type error
log_type warning
"""

# Runs a command for as long as standard input is open, and ends with it.
_WHILE_STDIN_IS_OPEN = """\
exec 3<&0
"$@" </dev/null 3<&- & child=$!
{ read -r _ <&3; kill "$child"; } & watch=$!
wait "$child"; code=$?
kill "$watch"; exit "$code"
"""


class BrokerError(RuntimeError):
    """The broker can't run; the text names the remedy."""


@dataclass(frozen=True)
class Broker:
    """A running broker. `kind` is `mosquitto` (MQTT 5) or `amqtt` (MQTT 3.1.1)."""

    host: str
    port: int
    kind: str
    process: subprocess.Popen[bytes]
    asks_who: bool
    """Whether it lets in only those with an account, each to its own topics."""

    @property
    def endpoint(self) -> str:
        """Return `host:port`."""
        return f"{self.host}:{self.port}"

    def stop(self) -> None:
        """End the broker and wait for its end; harmless when it has ended."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def start_broker(
    directory: Path, port: int | None = None, access: BrokerAccess | None = None
) -> Broker:
    """Start a broker on 127.0.0.1 that keeps its state in `directory`, and wait until it accepts.

    Without `port` it takes a free one; without `access` it lets in anybody. mosquitto comes back with its retained messages; amqtt
    keeps none. Raises `BrokerError`, also when `port` is in use.
    """
    directory = directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    with reserved_port(port) as free:
        return _started(directory, free, access)


def _started(directory: Path, port: int, access: BrokerAccess | None) -> Broker:
    mosquitto = find_mosquitto()
    if mosquitto:
        config = _MOSQUITTO_CONFIG.format(host=HOST, port=port, directory=directory)
        rules = access.write(directory) if access else ["allow_anonymous true"]
        config += "\n".join([*rules, ""])
        if os.getuid() == 0:
            config += "user root\n"  # else it changes to an account that can't write here
        (directory / "mosquitto.conf").write_text(config)
        server = [mosquitto, "-c", str(directory / "mosquitto.conf")]
        command = ["/bin/sh", "-c", _WHILE_STDIN_IS_OPEN, "sh", *server]
    else:
        if access:
            _LOG.warning(
                "mosquitto is not installed: the amqtt broker on port %s LETS IN ANYBODY on this"
                " machine, without password or role; install mosquitto",
                port,
            )
        command = [sys.executable, "-m", "vpp_pipeline.simulation.broker", str(port)]
    log = directory / "broker.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for us; the broker ends after its clients
        )
    kind = "mosquitto" if mosquitto else "amqtt"
    broker = Broker(HOST, port, kind, process, asks_who=bool(mosquitto and access))
    if not _accepts(broker):
        broker.stop()
        raise BrokerError(
            f"the {broker.kind} broker did not come up on {broker.endpoint} (exit code"
            f" {process.returncode}): {log.read_text(errors='replace')[-500:].strip()};"
            f" see {log} and check that {directory} is writable"
        )
    return broker


def find_mosquitto() -> str | None:
    """Return the path of the mosquitto server, also where only root's PATH would find it."""
    return shutil.which("mosquitto", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


@contextmanager
def reserved_port(port: int | None = None) -> Iterator[int]:
    """Keep `port`, or any that is free, from all but who binds it by name, as a broker does.

    Raises `BrokerError`.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port or 0))
        except OSError as error:
            raise BrokerError(
                f"can't listen on {HOST}:{port}: {error.strerror}; stop what listens there"
                f" (`ss -ltnp sport = :{port}` tells who) or choose another port"
            ) from error
        yield probe.getsockname()[1]


def _accepts(broker: Broker) -> bool:
    """Wait until the broker accepts a connection; False if it ended or took too long."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while broker.process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection((broker.host, broker.port), 1):
            return True
        time.sleep(0.02)
    return False


async def _serve_amqtt(port: int) -> None:
    """Run amqtt until standard input closes."""
    from amqtt.broker import Broker as AmqttBroker  # noqa: PLC0415 - slow; this process alone needs it

    server = AmqttBroker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"{HOST}:{port}"}},
            "plugins": {
                "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}
            },
        }
    )
    await server.start()
    await asyncio.to_thread(sys.stdin.buffer.read)
    await server.shutdown()


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    asyncio.run(_serve_amqtt(int(sys.argv[1])))
