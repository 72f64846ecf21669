"""Modbus gateways before simulated devices: one TCP port a site, one unit id a device.

Belongs here: ports, unit ids, and what a gateway says for a device that is dead. Does not: what
the registers mean (`sunspec_registers`), latency and broken frames (a proxy before the port).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pymodbus.constants import ExcCodes
from pymodbus.datastore import ModbusServerContext
from pymodbus.server import ModbusTcpServer

from vpp_pipeline.simulation.sunspec_registers import SunspecUnit, UnitRegisters

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vpp_pipeline.simulation.plant_protocol import Plant

_HOST = "127.0.0.1"
_MOST_UNITS = 247  # Modbus unit ids
_HOLDING_REGISTER_FUNCTIONS = frozenset({3, 6, 16, 22, 23})


class PortTaken(RuntimeError):  # noqa: N818 - names what was found
    """A site's fixed port is in use; the text names the remedy."""


class SunspecGateways:
    """SunSpec devices by site, each site behind one Modbus TCP server on 127.0.0.1.

    All of them run in the event loop that `start` is called in.
    """

    def __init__(self, sites: Mapping[str, Sequence[SunspecUnit]], plant: Plant) -> None:
        for site, units in sites.items():
            if len(units) > _MOST_UNITS:
                raise ValueError(
                    f"site {site} has {len(units)} Modbus devices, a gateway serves {_MOST_UNITS}; "
                    "split the site or move devices to another protocol"
                )
        self._sites = sites
        self._plant = plant
        self._servers: list[ModbusTcpServer] = []

    async def start(self, ports: Mapping[str, int] | None = None) -> dict[str, tuple[str, int]]:
        """Listen and return (host:port, unit id) by device id; unit ids follow the given order.

        `ports` fixes a site's port, for a restart at the old address; others are free ones.
        Raises `PortTaken`, and listens nowhere then.
        """
        links: dict[str, tuple[str, int]] = {}
        try:
            for site, units in self._sites.items():
                port = await self._listen(site, units, (ports or {}).get(site, 0))
                links |= {
                    unit.device_id: (f"{_HOST}:{port}", unit_id)
                    for unit_id, unit in enumerate(units, 1)
                }
        except BaseException:
            await self.stop()
            raise
        return links

    async def stop(self) -> None:
        """Close every connection and port. May be called twice."""
        servers, self._servers = self._servers, []
        for server in servers:
            await server.shutdown()  # type: ignore[no-untyped-call]

    async def _listen(self, site: str, units: Sequence[SunspecUnit], port: int) -> int:
        server = ModbusTcpServer(_Units(units, self._plant), address=(_HOST, port))
        try:
            await server.serve_forever(background=True)
        except RuntimeError as error:
            raise PortTaken(
                f"site {site}: {_HOST}:{port} can't be listened on; stop the process that uses it "
                "or let the site have a free port"
            ) from error
        self._servers.append(server)
        bound: int = server.transport.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        return bound


class _Units(ModbusServerContext):
    """The devices behind one gateway, as pymodbus' server asks for their registers.

    The base class' own store is left unused: these registers are computed when they are read.
    """

    def __init__(self, units: Sequence[SunspecUnit], plant: Plant) -> None:
        self._units = {
            unit_id: (unit.device_id, UnitRegisters(unit, plant))
            for unit_id, unit in enumerate(units, 1)
        }
        self._plant = plant
        self.simdevices = []
        self.old_simulator = True

    def device_ids(self) -> list[int]:
        """Return the unit ids."""
        return list(self._units)

    async def async_getValues(  # noqa: N802 - pymodbus' name
        self, device_id: int, func_code: int, address: int, count: int = 1
    ) -> list[int] | list[bool] | ExcCodes:
        """Answer a read."""
        registers = self._reached(device_id, func_code)
        return registers if isinstance(registers, ExcCodes) else registers.read(address, count)

    async def async_setValues(  # noqa: N802 - pymodbus' name
        self,
        device_id: int,
        func_code: int,
        address: int,
        values: Sequence[int] | Sequence[bool],
    ) -> ExcCodes | None:
        """Answer a write."""
        registers = self._reached(device_id, func_code)
        return registers if isinstance(registers, ExcCodes) else registers.write(address, values)

    def _reached(self, unit_id: int, func_code: int) -> UnitRegisters | ExcCodes:
        name, registers = self._units.get(unit_id, ("", None))
        if registers is None or self._plant.is_out(name):
            return ExcCodes.GATEWAY_NO_RESPONSE
        if func_code not in _HOLDING_REGISTER_FUNCTIONS:
            return ExcCodes.ILLEGAL_FUNCTION
        return registers
