"""The machines of one run."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.errors import RequestError


@dataclass(frozen=True)
class Nodes:
    """The machines of one run and this machine's place among them.

    Attributes:
        rendezvous: "host:port" of node 0, the same on every node; unused by one node alone.

    Raises:
        RequestError: the parts do not belong together.
    """

    count: int = 1
    rank: int = 0
    rendezvous: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.count:
            raise RequestError(
                f"Node rank {self.rank} is outside 0..{self.count - 1}: give --nodes the number "
                "of machines, and each machine its own --node-rank."
            )
        if self.count > 1 and self.rendezvous is None:
            raise RequestError(
                f"{self.count} nodes need --rendezvous HOST:PORT: a free port of node 0, the same "
                "on every node."
            )
        if self.count == 1 and self.rendezvous is not None:
            raise RequestError("--rendezvous is for several nodes: give --nodes too.")
        if self.rendezvous is not None:
            _ = self.address

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the rendezvous."""
        host, _, port = (self.rendezvous or "").rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise RequestError(
                f"--rendezvous {self.rendezvous!r} is not HOST:PORT with a port from 1 to 65535."
            )
        return host.strip("[]"), int(port)


ALONE = Nodes()
