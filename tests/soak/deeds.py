"""What do developers, operators and security people do all day? One deed at a time, drawn from a seed."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cfbridge.simulator import control, lab, policy_server
from cfbridge.simulator.garden import GardenError, diego_spec, health_check_spec
from cfbridge.simulator.nouns import App
from cfbridge.simulator.policy_table import PolicyKey, PolicyRow
from policy_sync.model import Action, Tier
from tests.soak.population import MACHINE_ORG, Population
from tests.soak.truth import Order, Orders

MODES = {"acme": "nat", "globex": "routed", "switching": "nat"}
"""As the intent file says at the start and at the end; `plain` has no wish."""
ORGS, SPACES = ("acme", "globex", "plain", "switching"), ("dev", "prod")
ORDERS_AT_MOST = 6

OUTLETS: tuple[Mapping[str, Any], ...] = (
    {"protocol": "tcp", "destination": f"{lab.EXT}/32", "ports": "80"},
    {"protocol": "tcp", "destination": "198.51.100.0/24", "ports": "80-443"},
    {"protocol": "udp", "destination": "198.51.100.0/24", "ports": "5000-6000"},
    {"protocol": "tcp", "destination": "10.240.0.0/14", "ports": "1-65535"},
    {"protocol": "all", "destination": "0.0.0.0/0"},
)
TCP_SPANS, UDP_SPANS = ((8080, 8080), (8081, 8081), (8000, 8080), (1, 65535)), ((5000, 5000), (5000, 5005), (1, 65535))
FEW, RESTING_EACH = 10, 12
WEIGHTS = {
    "push": 8,
    "scale": 12,
    "delete": 5,
    "add_policy": 28,
    "remove_policy": 18,
    "bind_asg": 6,
    "unbind_asg": 5,
    "add_order": 5,
    "remove_order": 4,
    "switch_mode": 1,
    "rename": 3,
    "task": 5,
    "health_check": 3,
}


@dataclass
class Deeds:
    population: Population
    rng: random.Random
    containers_wanted: int
    policies_wanted: int
    used: Callable[[], Collection[tuple[str, str]]] = lambda: ()
    """Pairs of apps with a stream between them: where it hurts most to take a policy away."""
    done: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    """Of Garden's: not to be, unless somebody was away."""
    resting: tuple[str, ...] = ()
    """Apps without instances, of policies that stay until the end."""
    _number: int = 0
    _visits: set[asyncio.Task[None]] = field(default_factory=set)
    """Containers made by hand, until their time is over."""

    async def one(self) -> str:
        """Something that can be done now; its name."""
        while True:
            name = self.rng.choices([*WEIGHTS], [*WEIGHTS.values()])[0]
            deed: Callable[[], Awaitable[bool] | bool] = getattr(self, f"_{name}")
            did = deed()
            self.population.note()
            if did:
                self.done[name] += 1
                return name

    async def populate(self) -> None:
        state = self._state
        for org in ORGS:
            for space in SPACES:
                control.push(state, {"org": org, "space": space, "name": self._name(), "instances": 1})
        while self._wanted() < self.containers_wanted:
            self._push(instances=2)
        while len(self._policies()) < self.policies_wanted:
            self._add_policy()
        self._rest()
        self.population.note()

    def _rest(self) -> None:
        """Most policies of a foundation stay. Beside so many, which no traffic meets, those that come and go are few,
        and no bridge takes them for a withdrawal of much. Where all are few, that needs no others."""
        if self.policies_wanted <= FEW:
            return
        space = next(iter(self._state.spaces))
        if not self.resting:
            self.resting = tuple(self._state.create_app(space, f"resting-{end}", instances=0).guid for end in "ab")
        ports = range(20_000, 20_000 + RESTING_EACH * self.policies_wanted)
        self._state.policies.create(PolicyKey(*self.resting, "tcp", port, port) for port in ports)

    async def depopulate(self) -> None:
        """Everything goes that came, but orgs and spaces."""
        await self.end_visits()
        for app in [*self._state.apps.values()]:
            self._state.delete_app(app.guid)
        self.resting = ()
        policy_server.cleanup(self._state)
        for group in [*self._state.security_groups.values()]:
            bare = replace(group, running=False, staging=False, running_spaces=(), staging_spaces=())
            self._state.change_security_group(bare)
        self.population.write(Orders(), **MODES)
        self.population.note()

    async def end_visits(self) -> None:
        for visit in self._visits:
            visit.cancel()
        await asyncio.gather(*self._visits, return_exceptions=True)

    # ---- apps

    @property
    def _state(self) -> Any:
        return self.population.box.foundation.state

    def _name(self) -> str:
        self._number += 1
        return f"app-{self._number}"

    def _apps(self) -> list[App]:
        return [app for app in self._state.apps.values() if app.guid not in self.resting]

    def _app(self) -> App:
        return self.rng.choice(self._apps())

    def _where(self, app: App) -> dict[str, str]:
        space = self._state.spaces[app.space]
        return {"org": self._state.orgs[space.org].name, "space": space.name, "name": app.name}

    def _path(self, app: App) -> str:
        return "/".join(self._where(app).values())

    def _wanted(self) -> int:
        return sum(process.instances for process in self._state.processes.values())

    def _push(self, instances: int = 0) -> bool:
        if self._wanted() >= self.containers_wanted and not instances:
            return False
        space = self.rng.choice([*self._state.spaces.values()])
        where = {"org": self._state.orgs[space.org].name, "space": space.name, "name": self._name()}
        control.push(self._state, {**where, "instances": instances or self.rng.randint(1, 2)})
        return True

    def _scale(self) -> bool:
        app = self._app()
        now = self._state.processes[app.guid].instances
        more = self._wanted() < self.containers_wanted
        control.scale(self._state, {**self._where(app), "instances": min(4, now + 1) if more else max(0, now - 1)})
        return True

    def _delete(self) -> bool:
        if len(self._apps()) < self.containers_wanted // 2:
            return False
        control.delete(self._state, self._where(self._app()))
        policy_server.cleanup(self._state)
        return True

    def _rename(self) -> bool:
        drawn = self.rng.random()
        app = self._app()
        space = self._state.spaces[app.space]
        org = self._state.orgs[space.org]
        self._number += 1
        if drawn < 0.7:
            control.rename(self._state, {**self._where(app), "new_name": self._name()})
        elif drawn < 0.9:
            self._state.change_space(replace(space, name=f"space-{self._number}"))
        elif org.name in (MACHINE_ORG, *MODES):  # a wish is bound to a name
            return False
        else:
            self._state.change_org(replace(org, name=f"org-{self._number}"))
        return True

    # ---- what may talk

    def _policies(self) -> list[PolicyRow]:
        return [row for row in self._state.policies.rows() if row.key.source not in self.resting]

    def _add_policy(self) -> bool:
        if len(self._policies()) > self.policies_wanted:
            return False
        source, destination = self._app(), self._app()
        protocol = self.rng.choice(("tcp", "tcp", "udp"))
        span = self.rng.choice(TCP_SPANS if protocol == "tcp" else UDP_SPANS)
        return bool(self._state.policies.create([PolicyKey(source.guid, destination.guid, protocol, *span)]))

    def _remove_policy(self) -> bool:
        rows = self._policies()
        if len(rows) <= self.policies_wanted // 2:
            return False
        used = [row for row in rows if (row.key.source, row.key.destination) in self.used()]
        return bool(self._state.policies.delete([self.rng.choice(used or rows).key]))

    def _bind_asg(self) -> bool:
        name = f"out-{self.rng.randrange(5)}"
        body: dict[str, Any] = {"name": name, "lifecycle": self.rng.choice(("running", "running", "staging", "both"))}
        if self._state.group_named(name) is None or self.rng.random() < 0.2:
            body["rules"] = [dict(each) for each in self.rng.sample(OUTLETS, 2)]
        if self.rng.random() < 0.9:
            where = self._where(self._app())
            body |= {"org": where["org"], "space": where["space"]}
        control.bind_asg(self._state, body)
        return True

    def _unbind_asg(self) -> bool:
        group = next((g for g in self._shuffled(self._state.security_groups.values()) if _bound(g)), None)
        if group is None:
            return False
        if group.running_spaces and self.rng.random() < 0.7:
            self._state.unbind(group, "running", self.rng.choice(group.running_spaces))
        else:
            staging = {"staging": False, "staging_spaces": ()}
            self._state.change_security_group(replace(group, running=False, **staging))
        return True

    def _shuffled(self, things: Any) -> list[Any]:
        return self.rng.sample(listed := [*things], len(listed))

    # ---- the intent file

    def _add_order(self) -> bool:
        orders = self.population.orders
        if len(orders.rules) >= ORDERS_AT_MOST:
            return False
        self._number += 1
        name, tier = f"order-{self._number}", self.rng.choice([*Tier])
        actions = [Action.ALLOW, Action.DROP, Action.REJECT, *([Action.PASS] if tier <= Tier.ENVIRONMENT else [])]
        service = self.rng.choice(("all", "tcp", "tcp/8080", "udp/5000-5001", "tcp/1-65535", "udp"))
        order = Order(name, tier, self.rng.choice(actions), self._side(), self._side(), service)
        at = self.rng.randint(0, len(orders.rules))
        groups = orders.groups or (("soaked", (self._path(self._app()), self._path(self._app()))),)
        self.population.write(Orders((*orders.rules[:at], order, *orders.rules[at:]), groups))
        return True

    def _side(self) -> str:
        """Seldom everybody: then nothing else would be tried until it is taken back."""
        app = self._app()
        where = self._where(app)
        narrow = [self._path(app), f"space:{where['org']}/{where['space']}", "vm:db-1", f"{lab.EXT}/32"]
        wide = ["any", f"org:{where['org']}", "kind:container", *(["soaked", "not soaked"] if self._grouped() else [])]
        return self.rng.choice(narrow if self.rng.random() < 0.7 else wide)

    def _grouped(self) -> bool:
        return bool(self.population.orders.groups)

    def _remove_order(self) -> bool:
        orders = self.population.orders
        if not orders.rules:
            return False
        gone = self.rng.choice(orders.rules)
        left = tuple(order for order in orders.rules if order is not gone)
        self.population.write(replace(orders, rules=left) if left else Orders())
        return True

    def _switch_mode(self) -> bool:
        self.population.write(switching=self.rng.choice(("nat", "routed", "shared")))
        return True

    # ---- containers that are no app's instance

    def _task(self) -> bool:
        app = self._app()
        where, space = self._where(app), self._state.spaces[app.space]
        spec = diego_spec(
            f"visit-{secrets.token_hex(6)}",
            org=space.org,
            space=space.guid,
            app=app.guid,
            org_name=where["org"],
            space_name=where["space"],
            app_name=where["name"],
            lifecycle=self.rng.choice(("task", "staging")),
        )
        self._visit(spec)
        return True

    def _health_check(self) -> bool:
        self._visit(health_check_spec(f"check-{secrets.token_hex(6)}"))
        return True

    def _visit(self, spec: Any) -> None:
        visit = asyncio.create_task(self._visited(spec, self.rng.uniform(3, 20)))
        self._visits.add(visit)
        visit.add_done_callback(self._visits.discard)

    async def _visited(self, spec: Any, seconds: float) -> None:
        guardian, asked = self.population.box.diego.guardian, time.monotonic()
        try:
            await guardian.create(spec)
        except GardenError as failure:  # Diego would try another cell
            if self.population.truth.calm_since(asked):
                self.failed.append(f"{spec.handle}: {failure}: {failure.stderr.strip()}")
            return
        try:
            await asyncio.sleep(seconds)
        finally:
            await asyncio.shield(guardian.destroy(spec.handle))


def _bound(group: Any) -> bool:
    return bool(group.running or group.staging or group.running_spaces or group.staging_spaces)
