"""Whom does a person mean by one end of a connection? An app, one of its instances, a machine, or an address.

frontend  (with the targeted org and space)    acme/dev/frontend    acme/dev/frontend/0    vm:db-1    10.20.0.7
"""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, replace

from cfbridge import identity
from cfbridge.api.naming import Naming
from cfbridge.api.views import Facade
from cfbridge.names import Names
from egress import values
from egress.values import QualifiedId, Refused, RefusedError, unqualify
from garden_plugin.wire import PortReport
from policy_sync.model import Kind, Lifecycle, Workload, World

_RUNNING = frozenset({Lifecycle.APP, Lifecycle.TASK})


Place = tuple[str, Workload | None]
"""An address, and who is known to be there."""


@dataclass(frozen=True, slots=True)
class End:
    name: str
    """As people call it."""
    workloads: tuple[Workload, ...] = ()
    """Who stands there: instances of an app, a machine. Nobody: the address is outside, or free."""
    address: str = ""
    """Where an address was asked for."""
    app: QualifiedId | None = None
    assumed: bool = False
    """No instance of the app runs: an instance was made up."""

    @property
    def addresses(self) -> tuple[Place, ...]:
        if self.address:
            return ((self.address, next(iter(self.workloads), None)),)
        return tuple((address, workload) for workload in self.workloads for address in workload.addresses)


class Ends:
    """Built for one snapshot."""

    def __init__(self, facade: Facade, named: Naming) -> None:
        self._snapshot, self._world, self._named = facade.snapshot, facade.world, named
        self._names = Names(facade.snapshot.inventory)
        self._at: dict[str, Workload] = {}
        self._of_app: dict[QualifiedId, list[Workload]] = {}
        self._said: dict[str, QualifiedId] = {}
        """Apps by what their containers say, for those that Cloud Controller has not told of yet."""
        for workload in facade.world.workloads:
            for address in workload.addresses:
                self._at.setdefault(address, workload)
            if workload.app and workload.lifecycle in _RUNNING:
                self._of_app.setdefault(workload.app, []).append(workload)
                self._said.setdefault(workload.name.rpartition("/")[0], workload.app)

    def find(self, written: str, field: str, org: str = "", space: str = "") -> End:
        """`field`: of the request, for the refusal. `org`, `space`: targeted, for a name alone."""
        if written.startswith("vm:"):
            return self._vm(written, field)
        try:
            return self._address(values.text(values.pack(written)))
        except ValueError:
            pass
        head, _, rest = written.partition(":")
        foundation, path = (f"{head}:", rest) if rest else ("", written)
        steps = path.split("/")
        if len(steps) == 1 and org and space:
            steps = [org, space, path]
        if len(steps) not in (3, 4) or not all(steps) or (len(steps) == 4 and not steps[3].isdigit()):
            hint = "target its org and space, or " if len(steps) == 1 else ""
            message = f"{written!r} names nobody: {hint}write ORG/SPACE/APP, vm:NAME or an address."
            raise _refused("BAD_END", message, field)
        return self._app(foundation + "/".join(steps[:3]), steps[3] if len(steps) == 4 else "", field)

    def _vm(self, written: str, field: str) -> End:
        found = next((each for each in self._world.workloads if each.id == written), None)
        if found is None:
            known = [each.name for each in self._world.workloads if each.kind is Kind.VM]
            raise _refused("VM_UNKNOWN", f"No machine is called {written[3:]!r}{_near(written[3:], known)}", field)
        return End(found.name, (found,))

    def _address(self, address: str) -> End:
        there = self._at.get(address)
        if there is None:
            return End(address, (), address)
        return End(f"{there.name or self._named.workload(there.id)} ({address})", (there,), address)

    def _app(self, path: str, index: str, field: str) -> End:
        app = self._names.find("app", path) or self._said.get(path)
        if not app:
            known = (self._named.app_path(each) for state in self._snapshot.inventory.values() for each in state.apps)
            raise _refused("APP_UNKNOWN", f"No app is called {path!r}{_near(path, known)}", field)
        name, there = self._named.app_path(app), self._of_app.get(app, [])
        if index:
            there = [each for each in there if each.name.rpartition("/")[2] == index]
            if not there:
                raise _refused("INSTANCE_UNKNOWN", f"No instance {index} of {name} runs.", field)
            return End(f"{name}/{index}", tuple(there), app=app)
        if there:
            return End(name, tuple(there), app=app)
        return End(name, (self._made_up(app, name),), app=app, assumed=True)

    def _made_up(self, app: QualifiedId, name: str) -> Workload:
        """An instance as it would be: at an address that nobody has, of a pool that its like come from."""
        foundation, guid = unqualify(app)
        state = self._snapshot.inventory[foundation]
        space = state.spaces[state.apps[app].space]  # by which it was found
        port = PortReport(
            "made up",
            org=unqualify(space.org)[1],
            space=unqualify(space.id)[1],
            app=guid,
            lifecycle=Lifecycle.APP.value,
            instance_index=0,
        )
        cell = next((cell for cell in self._snapshot.cells.values() if cell.foundation == foundation), None)
        tags = identity.by_subject(self._snapshot.intent.tags)
        return Workload(
            id=f"{foundation}:made up/{guid}",
            kind=Kind.CONTAINER,
            addresses=self._free(),
            cell=cell.name if cell else "",
            org=space.org,
            space=space.id,
            app=app,
            lifecycle=Lifecycle.APP,
            name=f"{name}/0",
            attributes=identity.of_container(port, cell.name if cell else "", state, tags),
        )

    def _free(self) -> tuple[str, ...]:
        """The last free address of the first pool of each family, and never the same one twice."""
        found: dict[int, str] = {}
        for pool in map(ipaddress.ip_network, self._world.container_pools):
            last = int(pool.broadcast_address)
            for number in range(last, max(int(pool.network_address), last - len(self._at) - 16), -1):
                address = str(type(pool.network_address)(number))
                if pool.version not in found and address not in self._at:
                    found[pool.version] = address
                    self._at[address] = _NOBODY
        return tuple(found.values())


_NOBODY = Workload("", Kind.CONTAINER, ())


def with_made_up(world: World, *ends: End) -> World:
    """The world in which they run."""
    made_up = (each for end in ends if end.assumed for each in end.workloads)
    return replace(world, workloads=(*world.workloads, *made_up))


def _near(written: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(written[:256], list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else "."


def _refused(code: str, message: str, field: str) -> RefusedError:
    return RefusedError(Refused(code, message, field))
