"""What does their JSON look like? The parts that we read of Cloud Controller's, UAA's and the policy server's answers.

Lists hold their rows undecoded (`msgspec.Raw`), so that one bad row is one bad row. Unknown fields are passed over.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec

from egress.values import Unavailable

T = TypeVar("T")
Natural = Annotated[int, msgspec.Meta(ge=0)]
Guid = Annotated[str, msgspec.Meta(min_length=1)]
PortNumber = Annotated[int, msgspec.Meta(ge=1, le=65535)]
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding raises."""
_SAID = 120
"""So much of somebody else's text is quoted in a message."""


class Complaint(msgspec.Struct):
    code: int = 0
    title: str = ""


class Errors(msgspec.Struct):
    """What Cloud Controller says where it refuses."""

    errors: list[Complaint] = []


class Pagination(msgspec.Struct):
    total_results: Natural
    total_pages: Natural


class Page(msgspec.Struct):
    pagination: Pagination
    resources: list[msgspec.Raw]


class Reference(msgspec.Struct):
    guid: Guid


class ToOne(msgspec.Struct):
    data: Reference


class ToMany(msgspec.Struct, frozen=True):
    data: tuple[Reference, ...] = ()


class Metadata(msgspec.Struct):
    labels: dict[str, str | None] = {}


class Org(msgspec.Struct):
    guid: Guid
    name: str
    suspended: bool | None = None
    metadata: Metadata = msgspec.field(default_factory=Metadata)


class OfOrg(msgspec.Struct):
    organization: ToOne


class Space(msgspec.Struct):
    guid: Guid
    name: str
    relationships: OfOrg
    metadata: Metadata = msgspec.field(default_factory=Metadata)


class OfSpace(msgspec.Struct):
    space: ToOne


class App(msgspec.Struct):
    guid: Guid
    name: str
    relationships: OfSpace
    state: str = "STARTED"
    metadata: Metadata = msgspec.field(default_factory=Metadata)


class OfApp(msgspec.Struct):
    app: ToOne


class Process(msgspec.Struct):
    guid: Guid
    type: str
    instances: Natural
    relationships: OfApp


class Stamp(msgspec.Struct):
    updated_at: Any = None
    """A hint only: a row with a stamp of another shape is still a row."""


class Ports(msgspec.Struct):
    start: PortNumber
    end: PortNumber


class PolicySource(msgspec.Struct):
    id: Guid


class PolicyDestination(msgspec.Struct):
    id: Guid
    protocol: str
    ports: Ports


class Policy(msgspec.Struct):
    source: PolicySource
    destination: PolicyDestination


class PolicyList(msgspec.Struct):
    total_policies: Natural
    policies: list[msgspec.Raw]


class AsgEntry(msgspec.Struct):
    protocol: str
    destination: str
    ports: str | None = None
    type: int | None = None
    code: int | None = None
    log: bool | None = None


class InternalAsg(msgspec.Struct):
    guid: Guid
    name: str
    rules: str
    """A JSON list, as a string."""
    staging_default: bool = False
    running_default: bool = False
    staging_space_guids: list[Guid] | None = None
    running_space_guids: list[Guid] | None = None


class InternalAsgPage(msgspec.Struct):
    next: Natural
    security_groups: list[msgspec.Raw]


class Enabled(msgspec.Struct, frozen=True):
    running: bool = False
    staging: bool = False


class AsgSpaces(msgspec.Struct, frozen=True):
    staging_spaces: ToMany = ToMany()
    running_spaces: ToMany = ToMany()


class ControllerAsg(msgspec.Struct):
    guid: Guid
    name: str
    rules: list[msgspec.Raw]
    globally_enabled: Enabled = Enabled()
    relationships: AsgSpaces = AsgSpaces()


class Link(msgspec.Struct):
    href: Guid


class RootLinks(msgspec.Struct):
    cloud_controller_v3: Link
    login: Link | None = None
    uaa: Link | None = None


class Root(msgspec.Struct):
    links: RootLinks


class Token(msgspec.Struct):
    access_token: Guid


class TokenError(msgspec.Struct):
    """What UAA says where it refuses."""

    error: str = ""


ERRORS = msgspec.json.Decoder(Errors)
PAGE = msgspec.json.Decoder(Page)
ORG = msgspec.json.Decoder(Org)
SPACE = msgspec.json.Decoder(Space)
APP = msgspec.json.Decoder(App)
PROCESS = msgspec.json.Decoder(Process)
REFERENCE = msgspec.json.Decoder(Reference)
STAMP = msgspec.json.Decoder(Stamp)
POLICY = msgspec.json.Decoder(Policy)
POLICY_LIST = msgspec.json.Decoder(PolicyList)
ASG_ENTRY = msgspec.json.Decoder(AsgEntry)
INTERNAL_ASG = msgspec.json.Decoder(InternalAsg)
INTERNAL_ASG_PAGE = msgspec.json.Decoder(InternalAsgPage)
CONTROLLER_ASG = msgspec.json.Decoder(ControllerAsg)
RAW_LIST = msgspec.json.Decoder(list[msgspec.Raw])
NUMBER = msgspec.json.Decoder(Natural)
ROOT = msgspec.json.Decoder(Root)
TOKEN = msgspec.json.Decoder(Token)
TOKEN_ERROR = msgspec.json.Decoder(TokenError)


def decoded(decoder: msgspec.json.Decoder[T], body: bytes, what: str) -> T:
    try:
        return decoder.decode(body)
    except UNREADABLE as error:
        raise Unavailable(f"no {what} in the answer: {error}; it begins {quoted(body)}") from error


def quoted(text: str | bytes | msgspec.Raw) -> str:
    """The beginning of somebody else's text, harmless in a log and on a terminal."""
    said = text if isinstance(text, str) else bytes(text)[: 4 * _SAID].decode("utf-8", "replace")
    return ascii(said if len(said) <= _SAID else said[:_SAID] + "...")
