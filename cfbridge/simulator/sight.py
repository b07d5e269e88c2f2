"""What may this caller see and change in Cloud Controller? Scopes for the whole foundation, roles for parts of it."""

from __future__ import annotations

from dataclasses import dataclass

from cfbridge.simulator.nouns import App, IsolationSegment, Org, Process, Role, SecurityGroup, Space, User
from cfbridge.simulator.state import Foundation
from cfbridge.simulator.tokens import Claims

_SEE_ALL = frozenset({"cloud_controller.admin", "cloud_controller.admin_read_only", "cloud_controller.global_auditor"})


@dataclass(frozen=True, slots=True)
class Sight:
    everything: bool
    admin: bool
    orgs: frozenset[str]
    spaces: frozenset[str]
    developed: frozenset[str]
    """Spaces whose apps the caller may change."""
    user: str

    def sees(self, thing: object, state: Foundation) -> bool:
        if self.everything:
            return True
        match thing:
            case Org():
                return thing.guid in self.orgs
            case Space():
                return thing.guid in self.spaces
            case App():
                return thing.space in self.spaces
            case Process():
                return state.apps[thing.app].space in self.spaces
            case SecurityGroup():
                shared = thing.running or thing.staging
                return shared or not self.spaces.isdisjoint((*thing.running_spaces, *thing.staging_spaces))
            case IsolationSegment():
                return not self.orgs.isdisjoint(thing.orgs)
            case Role():
                return thing.user == self.user or thing.space in self.spaces or thing.org in self.orgs
            case User():
                return thing.guid == self.user
            case _:
                return False


def of_caller(claims: Claims, state: Foundation) -> Sight:
    scopes = frozenset(claims["scope"])
    user = str(claims.get("user_id", claims["sub"]))
    if scopes & _SEE_ALL:
        return Sight(True, "cloud_controller.admin" in scopes, frozenset(), frozenset(), frozenset(), user)
    roles = [role for role in state.roles.values() if role.user == user]
    managed = {role.org for role in roles if role.type == "organization_manager"}
    spaces = {role.space for role in roles if role.space}
    spaces |= {space.guid for space in state.spaces.values() if space.org in managed}
    orgs = {role.org for role in roles if role.org} | {state.spaces[space].org for space in spaces}
    developed = state.developer_spaces(user) if "cloud_controller.write" in scopes else frozenset[str]()
    return Sight(False, False, frozenset(orgs), frozenset(spaces), developed, user)
