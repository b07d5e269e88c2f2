"""What does the simulated foundation hold? Every org, app, policy, user and fault, in the order they were made.

Servers read and change this one object. Changes are whole: a noun is replaced, never edited; who wants to run
containers subscribes and is told how many instances of a process are wanted.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

from cfbridge.simulator.nouns import (
    FAULT_MODES,
    SERVICES,
    App,
    Client,
    DesiredApp,
    Fault,
    IsolationSegment,
    Org,
    Process,
    Role,
    Rule,
    SecurityGroup,
    Space,
    User,
)
from cfbridge.simulator.policy_table import PolicyTable
from egress.values import Refused, RefusedError

Lifecycle = Literal["running", "staging"]
OnDesired = Callable[[DesiredApp], None]

ADMIN_SCOPES = ("network.admin", "cloud_controller.admin", "openid")
DEVELOPER_SCOPES = ("network.write", "cloud_controller.read", "cloud_controller.write", "openid")
READER_SCOPES = ("cloud_controller.read", "openid")


def timestamp(seconds: float) -> str:
    """Cloud Controller's whole seconds."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _refuse(code: str, message: str) -> RefusedError:
    return RefusedError(Refused(code, message))


@dataclass(slots=True)
class Foundation:
    """Dictionaries keep insertion order, which is Cloud Controller's default order of lists."""

    clock: Callable[[], float] = time.time
    orgs: dict[str, Org] = field(default_factory=dict)
    spaces: dict[str, Space] = field(default_factory=dict)
    apps: dict[str, App] = field(default_factory=dict)
    processes: dict[str, Process] = field(default_factory=dict)
    security_groups: dict[str, SecurityGroup] = field(default_factory=dict)
    isolation_segments: dict[str, IsolationSegment] = field(default_factory=dict)
    users: dict[str, User] = field(default_factory=dict)
    clients: dict[str, Client] = field(default_factory=dict)
    roles: dict[str, Role] = field(default_factory=dict)
    jobs: dict[str, str] = field(default_factory=dict)
    policies: PolicyTable = field(default_factory=PolicyTable)
    synced_groups: dict[str, SecurityGroup] = field(default_factory=dict)
    """What the ASG syncer last carried over to the policy server."""
    synced_at: int = 0
    faults: dict[str, Fault] = field(default_factory=dict)
    faults_changed: asyncio.Event = field(default_factory=asyncio.Event)
    frozen: Mapping[str, int] = field(default_factory=dict)
    """What the numbers of the latest change were when a `stale` fault began, by their names in the internal API."""
    _faulty_requests: dict[str, int] = field(default_factory=dict)
    _listeners: list[OnDesired] = field(default_factory=list)
    _names: dict[tuple[str, str, str], str] = field(default_factory=dict)
    """(kind, parent, lower-case name) to guid: ten thousand apps are seeded in a moment only with an index."""
    _processes_of: dict[str, list[str]] = field(default_factory=dict)

    def now(self) -> str:
        return timestamp(self.clock())

    # -- what is wanted of the cells

    def subscribe(self, on_desired: OnDesired) -> Callable[[], None]:
        """Call back for every process that exists, then for every change. Returns how to stop that."""
        self._listeners.append(on_desired)
        for desired in self.desired():
            on_desired(desired)
        return lambda: self._listeners.remove(on_desired)

    def desired(self) -> tuple[DesiredApp, ...]:
        return tuple(self._desired(process) for process in self.processes.values())

    def _desired(self, process: Process, *, gone: bool = False) -> DesiredApp:
        app = self.apps[process.app]
        space = self.spaces[app.space]
        org = self.orgs[space.org]
        return DesiredApp(
            process_guid=process.guid,
            process_type=process.type,
            app_guid=app.guid,
            app_name=app.name,
            space_guid=space.guid,
            space_name=space.name,
            org_guid=org.guid,
            org_name=org.name,
            instances=0 if gone or app.state != "STARTED" else process.instances,
        )

    def _tell(self, app: str, *, gone: bool = False) -> None:
        for process in self.processes_of(app):
            desired = self._desired(process, gone=gone)
            for listener in tuple(self._listeners):
                listener(desired)

    # -- orgs, spaces, apps

    def org_named(self, name: str) -> Org | None:
        return self.orgs.get(self._names.get(("org", "", name.lower()), ""))

    def space_named(self, org: str, name: str) -> Space | None:
        return self.spaces.get(self._names.get(("space", org, name.lower()), ""))

    def app_named(self, space: str, name: str) -> App | None:
        return self.apps.get(self._names.get(("app", space, name.lower()), ""))

    def create_org(self, name: str, guid: str = "", labels: Mapping[str, str] | None = None) -> Org:
        if self.org_named(name) is not None:
            raise _refuse("UNPROCESSABLE", f"Organization '{name}' already exists.")
        now = self.now()
        org = Org(guid or str(uuid.uuid4()), name, now, now, labels=labels or {})
        self.orgs[org.guid] = org
        self._names["org", "", name.lower()] = org.guid
        return org

    def create_space(self, org: str, name: str, guid: str = "", labels: Mapping[str, str] | None = None) -> Space:
        if org not in self.orgs:
            raise _refuse("UNPROCESSABLE", "Invalid organization. Ensure the organization exists and you have access.")
        if self.space_named(org, name) is not None:
            raise _refuse("UNPROCESSABLE", "Name must be unique per organization")
        now = self.now()
        space = Space(guid or str(uuid.uuid4()), name, org, now, now, labels=labels or {})
        self.spaces[space.guid] = space
        self._names["space", org, name.lower()] = space.guid
        return space

    def create_app(
        self,
        space: str,
        name: str,
        guid: str = "",
        *,
        instances: int = 1,
        started: bool = True,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> App:
        if space not in self.spaces:
            raise _refuse("UNPROCESSABLE", "Invalid space. Ensure that the space exists and you have access to it.")
        if self.app_named(space, name) is not None:
            raise _refuse("UNIQUENESS", f"App with the name '{name}' already exists.")
        now = self.now()
        guid = guid or str(uuid.uuid4())
        state = "STARTED" if started else "STOPPED"
        app = App(guid, name, space, now, now, state, labels=labels or {}, annotations=annotations or {})
        self.apps[guid] = app
        self._names["app", space, name.lower()] = guid
        # The first web process has its app's guid, as in Cloud Controller.
        self.processes[guid] = Process(guid, guid, now, now, instances=instances)
        self._processes_of[guid] = [guid]
        self._tell(guid)
        return app

    def change_org(self, org: Org) -> Org:
        other = self.org_named(org.name)
        if other is not None and other.guid != org.guid:
            raise _refuse("UNPROCESSABLE", f"Organization name '{org.name}' is already taken.")
        del self._names["org", "", self.orgs[org.guid].name.lower()]
        self._names["org", "", org.name.lower()] = org.guid
        self.orgs[org.guid] = changed = replace(org, updated_at=self.now())
        return changed

    def change_space(self, space: Space) -> Space:
        other = self.space_named(space.org, space.name)
        if other is not None and other.guid != space.guid:
            raise _refuse("UNPROCESSABLE", "Name must be unique per organization")
        del self._names["space", space.org, self.spaces[space.guid].name.lower()]
        self._names["space", space.org, space.name.lower()] = space.guid
        self.spaces[space.guid] = changed = replace(space, updated_at=self.now())
        return changed

    def change_app(self, app: App) -> App:
        other = self.app_named(app.space, app.name)
        if other is not None and other.guid != app.guid:
            raise _refuse("UNIQUENESS", f"App with the name '{app.name}' already exists.")
        del self._names["app", app.space, self.apps[app.guid].name.lower()]
        self._names["app", app.space, app.name.lower()] = app.guid
        self.apps[app.guid] = changed = replace(app, updated_at=self.now())
        self._tell(app.guid)
        return changed

    def processes_of(self, app: str) -> list[Process]:
        return [self.processes[guid] for guid in self._processes_of.get(app, ())]

    def scale(self, process: Process, instances: int) -> Process:
        self.processes[process.guid] = changed = replace(process, instances=instances, updated_at=self.now())
        self._tell(process.app)
        return changed

    def delete_app(self, guid: str) -> None:
        self._tell(guid, gone=True)
        for process in self.processes_of(guid):
            del self.processes[process.guid]
        del self._processes_of[guid]
        app = self.apps.pop(guid)
        del self._names["app", app.space, app.name.lower()]

    def delete_space(self, guid: str) -> None:
        for app_guid in [app.guid for app in self.apps.values() if app.space == guid]:
            self.delete_app(app_guid)
        for role in [role.guid for role in self.roles.values() if role.space == guid]:
            del self.roles[role]
        for group in list(self.security_groups.values()):
            if guid in group.running_spaces or guid in group.staging_spaces:
                running = tuple(space for space in group.running_spaces if space != guid)
                staging = tuple(space for space in group.staging_spaces if space != guid)
                self.change_security_group(replace(group, running_spaces=running, staging_spaces=staging))
        space = self.spaces.pop(guid)
        del self._names["space", space.org, space.name.lower()]

    def delete_org(self, guid: str) -> None:
        for space_guid in [space.guid for space in self.spaces.values() if space.org == guid]:
            self.delete_space(space_guid)
        for role in [role.guid for role in self.roles.values() if role.org == guid]:
            del self.roles[role]
        for segment in self.isolation_segments.values():
            if guid in segment.orgs:
                orgs = tuple(org for org in segment.orgs if org != guid)
                self.isolation_segments[segment.guid] = replace(segment, orgs=orgs)
        del self._names["org", "", self.orgs.pop(guid).name.lower()]

    def finished_job(self, operation: str) -> str:
        """Deletes are done at once here; the job that Cloud Controller promises is over before it is asked for."""
        guid = str(uuid.uuid4())
        self.jobs[guid] = operation
        while len(self.jobs) > 1000:
            del self.jobs[next(iter(self.jobs))]
        return guid

    # -- security groups

    def group_named(self, name: str) -> SecurityGroup | None:
        return next((group for group in self.security_groups.values() if group.name == name), None)

    def create_security_group(
        self, name: str, rules: Sequence[Rule] = (), guid: str = "", *, running: bool = False, staging: bool = False
    ) -> SecurityGroup:
        if self.group_named(name) is not None:
            raise _refuse("UNPROCESSABLE", f"Security group with name '{name}' already exists.")
        now = self.now()
        group = SecurityGroup(guid or str(uuid.uuid4()), name, now, now, tuple(rules), running, staging)
        self.security_groups[group.guid] = group
        return group

    def change_security_group(self, group: SecurityGroup) -> SecurityGroup:
        other = self.group_named(group.name)
        if other is not None and other.guid != group.guid:
            raise _refuse("UNPROCESSABLE", f"Security group with name '{group.name}' already exists.")
        self.security_groups[group.guid] = changed = replace(group, updated_at=self.now())
        return changed

    def bind(self, group: SecurityGroup, lifecycle: Lifecycle, spaces: Sequence[str]) -> SecurityGroup:
        bound = group.running_spaces if lifecycle == "running" else group.staging_spaces
        return self._bound(group, lifecycle, tuple(dict.fromkeys((*bound, *spaces))))

    def unbind(self, group: SecurityGroup, lifecycle: Lifecycle, space: str) -> SecurityGroup:
        bound = group.running_spaces if lifecycle == "running" else group.staging_spaces
        return self._bound(group, lifecycle, tuple(guid for guid in bound if guid != space))

    def _bound(self, group: SecurityGroup, lifecycle: Lifecycle, spaces: tuple[str, ...]) -> SecurityGroup:
        if lifecycle == "running":
            return self.change_security_group(replace(group, running_spaces=spaces))
        return self.change_security_group(replace(group, staging_spaces=spaces))

    def effective_groups(self, space: str, lifecycle: Lifecycle) -> list[SecurityGroup]:
        """Global ones and the space's own."""
        groups = self.security_groups.values()
        if lifecycle == "running":
            return [group for group in groups if group.running or space in group.running_spaces]
        return [group for group in groups if group.staging or space in group.staging_spaces]

    def sync_groups(self) -> None:
        """What the ASG syncer does every minute; the time moves only when something changed."""
        if self.synced_groups != self.security_groups:
            self.synced_groups = dict(self.security_groups)
            self.synced_at = max(int(self.clock() * 1_000_000) * 1000, self.synced_at + 1000)

    # -- people

    def user_named(self, name: str) -> User | None:
        return next((user for user in self.users.values() if user.name == name), None)

    def create_user(self, name: str, password: str, scopes: tuple[str, ...], guid: str = "") -> User:
        now = self.now()
        user = User(guid or str(uuid.uuid4()), name, password, scopes, now, now)
        self.users[user.guid] = user
        return user

    def create_role(self, kind: str, user: str, *, org: str = "", space: str = "") -> Role:
        if any((r.type, r.user, r.org, r.space) == (kind, user, org, space) for r in self.roles.values()):
            raise _refuse("UNPROCESSABLE", f"User already has '{kind}' role.")
        now = self.now()
        role = Role(str(uuid.uuid4()), kind, user, now, now, org, space)
        self.roles[role.guid] = role
        return role

    def developer_spaces(self, user: str) -> frozenset[str]:
        return frozenset(r.space for r in self.roles.values() if r.user == user and r.type == "space_developer")

    # -- faults

    def set_fault(self, service: str, fault: Fault | None) -> None:
        if service not in SERVICES:
            raise _refuse("UNPROCESSABLE", f"No service '{service}'; there are: {', '.join(SERVICES)}.")
        if fault is not None and fault.mode not in FAULT_MODES:
            raise _refuse("UNPROCESSABLE", f"No fault '{fault.mode}'; there are: {', '.join(FAULT_MODES)}, none.")
        self._faulty_requests.pop(service, None)
        if fault is not None and fault.mode == "stale":
            now = {"policies_last_updated": self.policies.last_updated}
            self.frozen = now | {"security_groups_last_updated": self.synced_at}
        if fault is None:
            self.faults.pop(service, None)
        else:
            self.faults[service] = fault
        # Whoever hangs on the old event looks again.
        self.faults_changed.set()
        self.faults_changed = asyncio.Event()

    def requests_under(self, service: str) -> int:
        """How many requests have met the fault that is set for this service, those let through counted."""
        return self._faulty_requests.get(service, 0)

    def fault_for(self, services: Sequence[str], path: str) -> Fault | None:
        """The fault that this request meets; asking counts the request."""
        for service in services:
            fault = self.faults.get(service)
            if fault is None or fault.path not in path:
                continue
            seen = self._faulty_requests[service] = self._faulty_requests.get(service, 0) + 1
            if seen > fault.after and (fault.times == 0 or seen <= fault.after + fault.times):
                return fault
        return None
