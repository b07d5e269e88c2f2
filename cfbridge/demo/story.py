"""Does a foundation in a box do what its people expect? A story with real packets, judged where they arrive.

Each chapter is one claim of the product. `cfbridge demo --scenario NAME` plays one alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial

from cfbridge.demo.box import Box
from cfbridge.demo.diego import Instance
from cfbridge.demo.report import Report
from cfbridge.simulator import lab
from cfbridge.simulator.probe import Outcome

SOON_SECONDS = 5.0
"""How long a change may take to be seen; the benchmarks say how long it takes."""
EXT_PORT = 80
VM_PORT = 5432

VM_RULES = """
groups:
  web: [acme/dev/frontend]
  databases: ["vm:db-1"]
rules:
  application:
    payments:
      - {name: web to database, from: web, to: databases, services: [tcp/5432], action: allow, owner: payments}
      - {name: database to web, from: databases, to: web, services: [tcp/8080], action: allow, owner: payments}
"""


class Story:
    def __init__(self, box: Box, report: Report) -> None:
        self.box = box
        self.report = report

    async def eventually(self, name: str, expected: str, ask: Callable[[], Awaitable[Outcome]]) -> bool:
        """Ask until the answer is as expected, or it is not soon any more."""
        deadline = time.monotonic() + SOON_SECONDS
        while (outcome := await ask()).result != expected and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        return self.report.step(name, expected, outcome.result)

    async def tcp(self, source: Instance, destination: Instance | str, port: int = 8080) -> Outcome:
        return await self.box.tcp(source, destination if isinstance(destination, str) else destination.address, port)

    async def push(self) -> None:
        """Apps of two orgs; every container has an address out of its org's own subnet."""
        await self.box.push("acme", "dev", "frontend", instances=2)
        await self.box.push("acme", "dev", "backend")
        await self.box.push("acme", "dev", "worker")
        await self.box.push("globex", "dev", "spy")
        orgs = {row["name"]: row for row in await self.box.api("orgs")}
        for app, index, org in (("frontend", 0, "acme"), ("frontend", 1, "acme"), ("spy", 0, "globex")):
            instance = self.box.instance(app, index)
            inside = self.box.in_subnet(instance.address, orgs[org])
            self.report.step(f"{app}/{index} has an address of {org}'s own subnet", True, inside)
        modes = f"{orgs['acme']['mode']}, {orgs['globex']['mode']}"
        self.report.step("acme is in NAT mode, globex is routed", "nat, routed", modes)

    async def refused_by_default(self) -> None:
        frontend, twin = self.box.instance("frontend", 0), self.box.instance("frontend", 1)
        backend, spy = self.box.instance("backend"), self.box.instance("spy")
        for name, to in (("another instance of its own app", twin), ("another app", backend), ("another org", spy)):
            outcome = await self.tcp(frontend, to)
            self.report.step(f"frontend to {name} without a policy", "refused", outcome.result)

    async def policy(self) -> None:
        """`cf add-network-policy` lets in; removal cuts the live connection and disturbs no other."""
        frontend, backend, worker = (self.box.instance(app) for app in ("frontend", "backend", "worker"))
        await self.box.add_policy("frontend", "backend")
        await self.box.add_policy("worker", "backend")
        await self.eventually("frontend to backend:8080 with a policy", "open", lambda: self.tcp(frontend, backend))
        await self.eventually("worker to backend:8080 with its own policy", "open", lambda: self.tcp(worker, backend))
        outcome = await self.tcp(frontend, backend)
        self.report.step("backend saw frontend's own address", frontend.address, outcome.seen)
        outcome = await self.tcp(frontend, backend, 8081)
        self.report.step("another port of backend", "refused", outcome.result)
        await self.box.open_stream(frontend, "live", backend.address, 8080)
        await self.box.open_stream(worker, "other", backend.address, 8080)
        await self.box.remove_policy("frontend", "backend")
        cut = await self.box.until_cut(frontend, "live", SOON_SECONDS)
        self.report.step("the live connection after cf remove-network-policy", "cut", "cut" if cut else "alive")
        undisturbed = await self.box.flows(worker, "other")
        self.report.step("worker's stream meanwhile", "flows", "flows" if undisturbed else "stalled")
        await self.eventually("frontend to backend again", "refused", lambda: self.tcp(frontend, backend))

    async def security_groups(self) -> None:
        """ASGs open the way outside, live, and never the way to a container."""
        frontend, spy = self.box.instance("frontend"), self.box.instance("spy")
        outside = partial(self.box.tcp, frontend, lab.EXT, EXT_PORT)
        self.report.step("frontend to the server outside, no ASG", "refused", (await outside()).result)
        await self.box.bind_asg("web-outside", [{"protocol": "tcp", "destination": lab.EXT, "ports": "80"}], "acme/dev")
        await self.eventually("ASG bound, no restart", "open", outside)
        await self.box.unbind_asg("web-outside", "acme/dev")
        await self.eventually("ASG unbound", "refused", outside)
        await self.box.bind_asg("everything", [{"protocol": "all", "destination": "0.0.0.0/0"}], "acme/dev")
        await self.eventually("ASG 0.0.0.0/0 opens outside", "open", outside)
        self.report.step("… but no container", "refused", (await self.tcp(frontend, spy)).result)
        free = self.box.free_pool_address()
        outcome = await self.tcp(frontend, free)
        closed = "closed" if outcome.result in ("refused", "unreachable", "timeout") else outcome.result
        self.report.step("… and no free pool address", "closed", closed)

    async def router(self) -> None:
        """A router host reaches the app by its mapped port, and gets a reset when the app is gone."""
        backend = self.box.instance("backend")
        port = backend.mapped_port(8080)
        outcome = await self.box.tcp_from("router", lab.CELL, port)
        self.report.step("router to backend's mapped port", "open", outcome.result)
        direct = await self.box.tcp_from("router", self.box.instance("spy").address, 8080)
        self.report.step("router to a routed container's own address", "refused", direct.result)
        await self.box.delete("acme", "dev", "backend")
        await self.eventually("mapped port after down", "refused", lambda: self.box.tcp_from("router", lab.CELL, port))

    async def cell(self) -> None:
        """DNS of the cell is there by UDP and TCP, nothing else of the cell is."""
        frontend = self.box.instance("frontend")
        answer = await self.box.resolve(frontend, tcp=False)
        self.report.step("DNS at 169.254.0.53 by UDP", "answered", answer)
        answer = await self.box.resolve(frontend, tcp=True)
        self.report.step("DNS at 169.254.0.53 by TCP", "answered", answer)
        outcome = await self.box.tcp(frontend, lab.CELL, self.box.cell_service_port)
        self.report.step("another port of the cell", "refused", outcome.result)
        outcome = await self.box.tcp(frontend, "169.254.169.254", 80)
        self.report.step("the metadata address", "refused", outcome.result)

    async def machines(self) -> None:
        """Container and VM reach each other by rule alone."""
        frontend, address = self.box.instance("frontend"), self.box.vm_address
        to_vm = partial(self.box.tcp, frontend, address, VM_PORT)
        from_vm = partial(self.box.tcp_from, "vm1", frontend.address, 8080)
        self.report.step("frontend to the VM without a rule", "refused", (await to_vm()).result)
        self.report.step("the VM to frontend without a rule", "refused", (await from_vm()).result)
        self.box.add_rules(VM_RULES)
        await self.eventually("frontend to the VM by rule `web to database`", "open", to_vm)
        await self.eventually("the VM to frontend by rule `database to web`", "open", from_vm)

    async def outside(self) -> None:
        """The physical firewall tells tenants apart by address alone."""
        frontend, spy = self.box.instance("frontend"), self.box.instance("spy")
        await self.box.bind_asg("everything", [{"protocol": "all", "destination": "0.0.0.0/0"}], "acme/dev")
        await self.box.bind_asg("everything", [{"protocol": "all", "destination": "0.0.0.0/0"}], "globex/dev")
        acme = partial(self.box.tcp, frontend, lab.EXT, EXT_PORT)
        globex = partial(self.box.tcp, spy, lab.EXT, EXT_PORT)
        await self.eventually("acme to outside", "open", acme)
        await self.eventually("globex to outside", "open", globex)
        snat = await self.box.snat_address("acme")
        self.report.step("acme leaves by its SNAT address", snat, (await acme()).seen)
        self.report.step("globex leaves by its own", spy.address, (await globex()).seen)
        seen = await self.box.seen_by_firewall()
        both = {snat, spy.address} <= seen and frontend.address not in seen
        self.report.step("the firewall host saw exactly these two", True, both)
        await self.box.firewall_blocks(snat)
        self.report.step("the firewall host stops acme by address", "timeout", (await acme()).result)
        self.report.step("globex passes on", "open", (await globex()).result)
        await self.box.firewall_unblocks(snat)

    async def spoofing(self) -> None:
        arrived = await self.box.spoofed(self.box.instance("frontend"), self.box.instance("worker"))
        self.report.step("a packet with another container's source address", "dropped", arrived)

    async def unknown_org(self) -> None:
        """A container of an org that nobody has read yet is served from what Garden says."""
        stranger = await self.box.create_unknown("initech")
        self.report.step("a container of an org nobody has read is up", True, bool(stranger.address))
        self.report.step("… and has DNS", "answered", await self.box.resolve(stranger, tcp=False))
        outcome = await self.tcp(stranger, self.box.instance("frontend"))
        self.report.step("… and reaches no other tenant", "refused", outcome.result)


CHAPTERS = (
    "push",
    "refused_by_default",
    "policy",
    "security_groups",
    "router",
    "cell",
    "machines",
    "outside",
    "spoofing",
    "unknown_org",
)


async def play(box: Box, report: Report, only: str = "") -> None:
    """All chapters in order, or `push` and one more."""
    story = Story(box, report)
    for chapter in CHAPTERS:
        if not only or chapter in ("push", only):
            await getattr(story, chapter)()
