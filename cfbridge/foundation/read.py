"""What do their bytes say? JSON of Cloud Controller and the policy server, read into inventory nouns. Pure.

    one bad object            -> `Refused`, alone, with its reason; the others are read as if it were not there
    not JSON, another shape,
    totals that don't fit     -> `Unavailable`: the look was not complete, and an incomplete look never counts

Lists are decoded to raw rows first and each row by itself, so that one bad row is one bad row.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

import msgspec

from cfbridge.foundation import answers
from cfbridge.inventory import NO_LABELS, App, Org, Process, Space
from egress.values import QualifiedId, Refused, Unavailable, qualify
from policy_sync import translate
from policy_sync.model import Asg, CfPolicy, GardenRule, Protocol

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rows(Generic[T]):
    """One list, read: what was understood, what was not, and where the next delta begins."""

    found: Mapping[QualifiedId, T] = field(default_factory=dict)
    refused: Mapping[str, Refused] = field(default_factory=dict)
    """By GUID, or by a piece of the row where it has none."""
    newest: str = ""
    """The latest `updated_at` seen; empty when there was none."""


@dataclass(frozen=True, slots=True)
class Policies:
    """The list of network policies. Each row is kept beside what it means, in the list's order, so that the next list
    costs only what changed in it, and unchanged policies stay the same objects."""

    policies: frozenset[CfPolicy] = frozenset()
    refused: tuple[Refused, ...] = ()
    rows: Sequence[msgspec.Raw] = ()
    meanings: Sequence[CfPolicy | Refused] = ()


def orgs(foundation: str, pages: Sequence[bytes]) -> Rows[Org]:
    def org(row: answers.Org) -> tuple[QualifiedId, Org]:
        key = qualify(foundation, row.guid)
        return key, Org(key, row.name, bool(row.suspended), _labels(row.metadata))

    return _rows("organization", answers.ORG, org, listing(pages))


def spaces(foundation: str, pages: Sequence[bytes]) -> Rows[Space]:
    def space(row: answers.Space) -> tuple[QualifiedId, Space]:
        key = qualify(foundation, row.guid)
        return key, Space(
            key, row.name, qualify(foundation, row.relationships.organization.data.guid), _labels(row.metadata)
        )

    return _rows("space", answers.SPACE, space, listing(pages))


def apps(foundation: str, pages: Sequence[bytes]) -> Rows[App]:
    def app(row: answers.App) -> tuple[QualifiedId, App]:
        key = qualify(foundation, row.guid)
        return key, App(
            key, row.name, qualify(foundation, row.relationships.space.data.guid), row.state, _labels(row.metadata)
        )

    return _rows("app", answers.APP, app, listing(pages))


def _labels(metadata: answers.Metadata) -> Mapping[str, str]:
    """One empty mapping for all that have none."""
    return {key: value for key, value in metadata.labels.items() if value is not None} or NO_LABELS


def processes(foundation: str, pages: Sequence[bytes]) -> Rows[Process]:
    def process(row: answers.Process) -> tuple[QualifiedId, Process]:
        key = qualify(foundation, row.guid)
        app = qualify(foundation, row.relationships.app.data.guid)
        return key, Process(key, row.type, app, row.instances)

    return _rows("process", answers.PROCESS, process, listing(pages))


def controller_asgs(foundation: str, pages: Sequence[bytes]) -> Rows[Asg]:
    """Security groups as Cloud Controller v3 lists them."""
    refused: dict[str, Refused] = {}

    def asg(row: answers.ControllerAsg) -> tuple[QualifiedId, Asg]:
        spaces = row.relationships
        return qualify(foundation, row.guid), Asg(
            id=qualify(foundation, row.guid),
            name=row.name,
            rules=_entries(row.guid, row.name, row.rules, refused),
            running_default=row.globally_enabled.running,
            staging_default=row.globally_enabled.staging,
            running_spaces=frozenset(qualify(foundation, space.guid) for space in spaces.running_spaces.data),
            staging_spaces=frozenset(qualify(foundation, space.guid) for space in spaces.staging_spaces.data),
        )

    read = _rows("security group", answers.CONTROLLER_ASG, asg, listing(pages))
    return replace(read, refused={**read.refused, **refused})


def internal_asgs(foundation: str, pages: Sequence[bytes]) -> Rows[Asg]:
    """Security groups as the policy server's internal list has them. It is asked in batches of spaces, so a group may
    come several times: then each time the same, or the list changed while it was read."""
    refused: dict[str, Refused] = {}
    rows: dict[str, bytes] = {}
    for body in pages:
        for raw in answers.decoded(answers.INTERNAL_ASG_PAGE, body, "security groups").security_groups:
            text = bytes(raw)
            key = _guid(raw) or answers.quoted(text)
            if rows.setdefault(key, text) != text:
                raise Unavailable(f"security group {key} changed while the list was read")

    def asg(row: answers.InternalAsg) -> tuple[QualifiedId, Asg]:
        return qualify(foundation, row.guid), Asg(
            id=qualify(foundation, row.guid),
            name=row.name,
            rules=_entries(row.guid, row.name, answers.RAW_LIST.decode(row.rules), refused),
            running_default=row.running_default,
            staging_default=row.staging_default,
            running_spaces=frozenset(qualify(foundation, guid) for guid in row.running_space_guids or ()),
            staging_spaces=frozenset(qualify(foundation, guid) for guid in row.staging_space_guids or ()),
        )

    read = _rows("security group", answers.INTERNAL_ASG, asg, (msgspec.Raw(text) for text in rows.values()))
    return replace(read, refused={**read.refused, **refused})


def policies(foundation: str, body: bytes, before: Policies = Policies()) -> Policies:
    """The whole list. Rows that follow each other as they did before are not looked into: of 60,000 a few change, and
    the servers keep their order. In another order they are found all the same."""
    listed = answers.decoded(answers.POLICY_LIST, body, "policies")
    if listed.total_policies != len(listed.policies):
        raise Unavailable(f"the list has {len(listed.policies)} policies and says {listed.total_policies}")
    rows, had = listed.policies, before.rows
    runs = [*_runs(had, rows), (len(had), len(rows), 0)]
    known: dict[bytes, CfPolicy | Refused] = {}
    fresh: dict[bytes, CfPolicy | Refused] = {}
    seen: set[bytes] = set()
    meanings: list[CfPolicy | Refused] = []
    at = 0
    for was, _, count in runs:
        known.update(zip(map(bytes, had[at:was]), before.meanings[at:was], strict=True))
        at = was + count
    for was, now, count in runs:
        for text in map(bytes, rows[len(meanings) : now]):
            seen.add(text)
            meaning = known.get(text) or fresh.get(text)
            if meaning is None:
                meaning = fresh[text] = _policy(foundation, text)
            meanings.append(meaning)
        meanings += before.meanings[was : was + count]
    doubtful = before.refused or any(isinstance(meaning, Refused) for meaning in fresh.values())
    left_out = [meaning for meaning in meanings if isinstance(meaning, Refused)] if doubtful else []
    # Set arithmetic keeps the hashes that are there; hashing 60,000 policies anew would cost more than all the rest.
    held, gone = before.policies, {known[text] for text in known.keys() - seen}
    if gone or fresh:
        held = (held - gone) | {meaning for meaning in fresh.values() if isinstance(meaning, CfPolicy)}
    if len(held) + len(left_out) != len(rows):
        # Two rows say the same (they may differ in their tags): what one of them leaves, the other still holds.
        held = frozenset(meaning for meaning in meanings if isinstance(meaning, CfPolicy))
    return Policies(held, tuple(sorted({*left_out}, key=lambda r: (r.field, r.message))), rows, meanings)


def listing(pages: Sequence[bytes]) -> tuple[msgspec.Raw, ...]:
    """All rows of a paged list, or `Unavailable` where totals, pages and ids don't fit: rows were deleted or moved
    while the pages were walked, and somebody may be missing."""
    read = [answers.decoded(answers.PAGE, body, "page") for body in pages]
    if not read:
        raise Unavailable("the list has no page")
    total, count, size = read[0].pagination.total_results, read[0].pagination.total_pages, len(read[0].resources)
    if any((page.pagination.total_results, page.pagination.total_pages) != (total, count) for page in read):
        raise Unavailable("the list changed while its pages were read")
    if len(read) != max(1, count):
        raise Unavailable(f"the list has {count} pages, {len(read)} were read")
    if any(len(page.resources) != size for page in read[:-1]):
        raise Unavailable("a page in the middle of the list is short")
    rows = tuple(row for page in read for row in page.resources)
    if len(rows) != total:
        raise Unavailable(f"the list says {total} results and has {len(rows)}")
    guids = [guid for row in rows if (guid := _guid(row))]
    if len(set(guids)) != len(guids):
        raise Unavailable("an object is twice in the list: rows moved while its pages were read")
    return rows


def total_pages(body: bytes) -> int:
    """How many pages the list has whose page this is. At most one more than a list of its length can have."""
    page = answers.decoded(answers.PAGE, body, "page")
    size = max(1, len(page.resources))
    return min(page.pagination.total_pages, page.pagination.total_results // size + 1)


def newest(body: bytes) -> str:
    """The latest `updated_at` on one page; empty when there is none."""
    page = answers.decoded(answers.PAGE, body, "page")
    return functools.reduce(_later, page.resources, "")


def next_row(body: bytes) -> int:
    """Where the next page of the internal list of security groups begins; 0 after the last."""
    return answers.decoded(answers.INTERNAL_ASG_PAGE, body, "security groups").next


def number(body: bytes) -> int:
    """A bare integer: when something was changed last, in nanoseconds; any other number means *look again*."""
    return answers.decoded(answers.NUMBER, body, "number")


def root(body: bytes) -> tuple[str, str]:
    """(URL of Cloud Controller v3, URL of the server that gives tokens), from `GET /`."""
    links = answers.decoded(answers.ROOT, body, "root document").links
    login = links.login or links.uaa
    if login is None:
        raise Unavailable("Cloud Controller's root document names no login server")
    return links.cloud_controller_v3.href.rstrip("/"), login.href.rstrip("/")


def access_token(body: bytes) -> str:
    return answers.decoded(answers.TOKEN, body, "token").access_token


def says_not_found(body: bytes) -> bool:
    """Whether a 404 is Cloud Controller's own word about an object, and not a router's about a route."""
    try:
        errors = answers.ERRORS.decode(body).errors
    except answers.UNREADABLE:
        return False
    return any(error.title == "CF-ResourceNotFound" for error in errors)


def guid_of(body: bytes) -> str:
    """Which object an answer shows; empty where it shows none."""
    return _guid(msgspec.Raw(body))


def error_code(body: bytes) -> int:
    """By what number Cloud Controller refuses; 0 where it says none."""
    try:
        return next((error.code for error in answers.ERRORS.decode(body).errors), 0)
    except answers.UNREADABLE:
        return 0


def token_error(body: bytes) -> str:
    """By what word UAA refuses; empty where it says none."""
    try:
        return answers.TOKEN_ERROR.decode(body).error
    except answers.UNREADABLE:
        return ""


def since(newest: str) -> str:
    """The moment a delta begins at: two seconds before the newest change seen, since theirs are whole seconds and a
    row may be committed after its stamp. Empty when there is no moment to begin at."""
    try:
        stamped = datetime.fromisoformat(newest)
        if stamped.tzinfo is None:
            return ""
        moment = stamped.astimezone(UTC) - timedelta(seconds=2)
    except (ValueError, OverflowError):
        return ""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ") if moment.year >= 1000 else ""


# How ------------------------------------------------------------------------------------------------------------------


def _rows(
    what: str,
    decoder: msgspec.json.Decoder[Any],
    noun: Callable[[Any], tuple[QualifiedId, T]],
    raws: Sequence[msgspec.Raw] | Iterator[msgspec.Raw],
) -> Rows[T]:
    found: dict[QualifiedId, T] = {}
    refused: dict[str, Refused] = {}
    latest = ""
    for raw in raws:
        try:
            qualified, value = noun(decoder.decode(raw))
            found[qualified] = value
        except answers.UNREADABLE as error:
            key = _guid(raw) or answers.quoted(raw)
            reason = f"one {what} is left out: {error}; it begins {answers.quoted(raw)}"
            refused[key] = Refused("CF_OBJECT_UNREADABLE", reason, key)
        else:
            latest = _later(latest, raw)
    return Rows(found, refused, latest)


_WINDOW = 512
"""So many rows are compared at once, and so far ahead is a row looked for that is not where it was."""
_GAPS = 200
"""After so many places where they differ, lists are no longer taken to be in the same order."""


def _runs(had: Sequence[msgspec.Raw], rows: Sequence[msgspec.Raw]) -> Iterator[tuple[int, int, int]]:
    """Equal rows one after the other: (where they were, where they are, how many). Each row is in one run at most."""
    was = now = gaps = 0
    while was < len(had) and now < len(rows) and gaps < _GAPS:
        before, after = had[was : was + _WINDOW], rows[now : now + _WINDOW]
        least = min(len(before), len(after))
        differing = itertools.compress(itertools.count(), map(operator.ne, before, after))
        same = least if before == after else next(differing, least)
        yield was, now, same
        was, now = was + same, now + same
        if same < least:
            gaps += 1
            gone, come = _ahead(after[same], before, same), _ahead(before[same], after, same)
            if gone == come == _WINDOW:  # another row in the place of one
                was, now = was + 1, now + 1
            elif gone < come:
                was += gone
            else:
                now += come


def _ahead(row: msgspec.Raw, rows: Sequence[msgspec.Raw], begin: int) -> int:
    """How far after `begin` the row stands; _WINDOW where it is not among them."""
    try:
        return rows.index(row, begin) - begin
    except ValueError:
        return _WINDOW


def _policy(foundation: str, text: bytes) -> CfPolicy | Refused:
    try:
        row = answers.POLICY.decode(text)
        if row.destination.protocol not in ("tcp", "udp"):
            raise msgspec.ValidationError(f"protocol {answers.quoted(row.destination.protocol)} is neither tcp nor udp")
        ports = row.destination.ports
        if ports.start > ports.end:
            raise msgspec.ValidationError(f"ports {ports.start} to {ports.end} end before they start")
    except answers.UNREADABLE as error:
        reason = f"a network policy allows nothing: {error}; it begins {answers.quoted(text)}"
        return Refused("CF_POLICY_UNREADABLE", reason, "policies")
    return CfPolicy(
        qualify(foundation, row.source.id),
        qualify(foundation, row.destination.id),
        Protocol(row.destination.protocol),
        ports.start,
        ports.end,
    )


def _entries(guid: str, name: str, raws: Sequence[msgspec.Raw], refused: dict[str, Refused]) -> tuple[GardenRule, ...]:
    """The entries of a group that can be understood; the others, each alone, into `refused`."""
    rules: list[GardenRule] = []
    for position, raw in enumerate(raws):
        where = f"{guid}/rules/{position}"
        what = f"entry {position + 1} of security group {answers.quoted(name)} allows nothing"
        try:
            entry = answers.ASG_ENTRY.decode(raw)
        except answers.UNREADABLE as error:
            refused[where] = Refused("ASG_ENTRY_UNREADABLE", f"{what}: {error}; {answers.quoted(raw)}", where)
            continue
        rule = translate.asg_rule(
            entry.protocol, entry.destination, entry.ports or "", entry.type, entry.code, bool(entry.log)
        )
        if isinstance(rule, Refused):
            refused[where] = Refused(rule.code, f"{what}: {rule.message}", where)
        else:
            rules.append(rule)
    return tuple(rules)


def _guid(raw: msgspec.Raw) -> str:
    """Who a row is, even where the rest of it can't be read; empty where it has no GUID."""
    try:
        return answers.REFERENCE.decode(raw).guid
    except answers.UNREADABLE:
        return ""


def _later(latest: str, raw: msgspec.Raw) -> str:
    """The later one of a stamp and a row's, where the row has one that a delta could begin at."""
    try:
        stamp = answers.STAMP.decode(raw).updated_at
    except answers.UNREADABLE:
        return latest
    return stamp if isinstance(stamp, str) and stamp > latest and since(stamp) else latest
