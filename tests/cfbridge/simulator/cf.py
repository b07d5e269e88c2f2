"""What would the `cf` CLI do and print? Its requests and its words for the commands of the recorded sessions.

Written from the recorded sessions and traces, so that the simulator is tested by the CLI's flow without a CLI.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp

BATCH = 200

USAGE = """Incorrect Usage: PROTOCOL must be "tcp" or "udp"

NAME:
   add-network-policy - Create policy to allow direct network traffic from one app to another

USAGE:
   {cf} add-network-policy SOURCE_APP DESTINATION_APP [-s DESTINATION_SPACE_NAME [-o DESTINATION_ORG_NAME]] \
[--protocol (tcp | udp) --port RANGE]

EXAMPLES:
   {cf} add-network-policy frontend backend --protocol tcp --port 8081
   {cf} add-network-policy frontend backend -s backend-space -o backend-org --protocol tcp --port 8080-8090

OPTIONS:
   --port          Port or range of ports for connection to destination app (Default: 8080)
   --protocol      Protocol to connect apps with (Default: tcp)
   -o              The org of the destination app (Default: targeted org)
   -s              The space of the destination app (Default: targeted space)

SEE ALSO:
   apps, network-policies, remove-network-policy
"""


class FailedError(Exception):
    """The command failed; the message is printed before FAILED."""


class UsageError(Exception):
    """The command was called wrongly; the message is printed alone."""


@dataclass(frozen=True)
class Place:
    guid: str
    name: str


@dataclass
class Cf:
    session: aiohttp.ClientSession
    name: str = "cf8"
    version: str = "8.0.0"
    api: str = ""
    links: Mapping[str, Any] = field(default_factory=dict)
    token: str = ""
    user: str = ""
    org: Place | None = None
    space: Place | None = None
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    """Method, URL and JSON body of everything asked."""

    async def run(self, arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[str, int]:
        """What is printed, and the exit code."""
        printed: list[str] = []
        try:
            await self._command(arguments, environment, printed)
        except FailedError as failed:
            return "".join([*printed, f"{failed}\nFAILED\n"]), 1
        except UsageError as wrong:
            return str(wrong), 1
        return "".join(printed), 0

    async def _command(self, arguments: Sequence[str], environment: Mapping[str, str], out: list[str]) -> None:
        command, positional, options = arguments[0], *_split(arguments[1:])
        match command:
            case "version":
                out.append(f"{self.name} version {self.version}\n")
            case "api":
                await self._api(positional[0], out)
            case "auth":
                await self._auth(environment["CF_USERNAME"], environment["CF_PASSWORD"], out)
            case "target":
                await self._target(options["-o"], options["-s"], out)
            case "add-network-policy" | "remove-network-policy":
                await self._change_policy(command, positional, options, out)
            case "network-policies":
                await self._policies(options.get("--source"), out)
            case "security-groups":
                await self._security_groups(out)
            case "orgs":
                out.append(f"Getting orgs as {self.user}...\n\n")
                out.append(
                    _table([("name",), *((org["name"],) for org in await self._all("organizations", order_by="name"))])
                )
            case "spaces":
                assert self.org is not None
                spaces = await self._all("spaces", order_by="name", organization_guids=self.org.guid)
                out.append(f"Getting spaces in org {self.org.name} as {self.user}...\n\n")
                out.append(_table([("name",), *((space["name"],) for space in spaces)]))
            case _:
                raise AssertionError(f"not one of the recorded commands: {command}")

    # -- requests

    async def _json(self, method: str, url: str, body: Any = None) -> Any:
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"bearer {self.token}"
        self.requests.append((method, url, body))
        content = None if body is None else json.dumps(body)
        async with self.session.request(method, url, headers=headers, data=content) as response:
            text = await response.text()
            if response.status >= 400:
                document = json.loads(text)
                raise FailedError(document["error"] if "error" in document else document["errors"][0]["detail"])
            return json.loads(text)

    async def _all(self, kind: str, **query: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        url = f"{self.api}/v3/{kind}?{urlencode(sorted(query.items()), quote_via=quote)}".rstrip("?")
        while url:
            page = await self._json("GET", url)
            found += page["resources"]
            following = page["pagination"]["next"]
            url = following["href"] if following else ""
        return found

    async def _by_guids(self, kind: str, guids: Iterable[str]) -> dict[str, dict[str, Any]]:
        listed = list(dict.fromkeys(guids))
        found: dict[str, dict[str, Any]] = {}
        for start in range(0, len(listed), BATCH):
            batch = await self._all(kind, guids=",".join(listed[start : start + BATCH]))
            found |= {thing["guid"]: thing for thing in batch}
        return found

    async def _named(self, kind: str, what: str, name: str, **query: str) -> Place:
        found = await self._all(kind, names=name, **query)
        if not found:
            raise FailedError(f"{what} '{name}' not found.")
        return Place(found[0]["guid"], found[0]["name"])

    # -- commands

    async def _api(self, url: str, out: list[str]) -> None:
        self.api = url
        self.links = (await self._json("GET", url))["links"]
        out.append(f"Setting API endpoint to {url}...\n")
        if url.startswith("http:"):
            out.append("Warning: Insecure http API endpoint detected: secure https API endpoints are recommended\n")
        out.append("OK\n\n" + self._where())
        out.append(f"\nNot logged in. Use '{self.name} login' or '{self.name} login --sso' to log in.\n")

    def _where(self) -> str:
        version = self.links["cloud_controller_v3"]["meta"]["version"]
        return f"API endpoint:   {self.api}\nAPI version:    {version}\n"

    async def _auth(self, user: str, password: str, out: list[str]) -> None:
        out.append(f"API endpoint: {self.api}\n\nAuthenticating...\n")
        login = self.links["login"]["href"]
        prompts = await self._json("GET", f"{login}/login")
        assert {"username", "password"} <= prompts["prompts"].keys()
        form = urlencode({"grant_type": "password", "password": password, "username": user})
        headers = {"Authorization": "Basic Y2Y6", "Content-Type": "application/x-www-form-urlencoded"}
        async with self.session.post(f"{login}/oauth/token", data=form, headers=headers) as response:
            if response.status != 200:
                raise FailedError("Credentials were rejected, please try again.")
            self.token = (await response.json())["access_token"]
        # Like the CLI: the token is read, not verified.
        payload = self.token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        assert claims["exp"]
        self.user, self.org, self.space = claims["user_name"], None, None
        out.append(f"OK\n\nUse '{self.name} target' to view or set your target org and space.\n")

    async def _target(self, org: str, space: str, out: list[str]) -> None:
        self.org = await self._named("organizations", "Organization", org)
        self.space = await self._named("spaces", "Space", space, organization_guids=self.org.guid)
        out.append(self._where())
        out.append(f"user:           {self.user}\norg:            {org}\nspace:          {space}\n")

    async def _change_policy(
        self, command: str, positional: Sequence[str], options: Mapping[str, str], out: list[str]
    ) -> None:
        if options.get("--protocol", "tcp") not in ("tcp", "udp"):
            raise UsageError(USAGE.format(cf=self.name))
        assert self.org is not None
        assert self.space is not None
        source, destination = positional
        adding = command.startswith("add")
        verb = "Adding" if adding else "Removing"
        org, space = self.org, self.space
        if "-o" in options:
            org = await self._named("organizations", "Organization", options["-o"])
        here = f"in org {self.org.name} / space {self.space.name}"
        if "-s" in options:
            space = await self._named("spaces", "Space", options["-s"], organization_guids=org.guid)
            there = f"in org {org.name} / space {space.name}"
            line = f"{verb} network policy from app {source} {here} to app {destination} {there} as {self.user}..."
        else:
            line = f"{verb} network policy from app {source} to app {destination} {here} as {self.user}..."
        out.append(f"{line}\n")
        source_app = await self._named("apps", "App", source, space_guids=self.space.guid)
        destination_app = await self._named("apps", "App", destination, space_guids=space.guid)
        start, _, end = options.get("--port", "8080").partition("-")
        policy = {
            "source": {"id": source_app.guid},
            "destination": {
                "id": destination_app.guid,
                "protocol": options.get("--protocol", "tcp"),
                "ports": {"start": int(start), "end": int(end or start)},
            },
        }
        policies = f"{self.links['network_policy_v1']['href']}/policies"
        if adding:
            await self._json("POST", policies, {"policies": [policy]})
        elif policy in (await self._json("GET", f"{policies}?id={source_app.guid}"))["policies"]:
            await self._json("POST", f"{policies}/delete", {"policies": [policy]})
        else:
            out.append("Policy does not exist.\n")
        out.append("OK\n\n")

    async def _policies(self, source: str | None, out: list[str]) -> None:
        assert self.org is not None
        assert self.space is not None
        of_app = f"of app {source} " if source else ""
        here = f"in org {self.org.name} / space {self.space.name}"
        out.append(f"Listing network policies {of_app}{here} as {self.user}...\n")
        names = {"names": source} if source else {}
        apps = {app["guid"]: app for app in await self._all("apps", space_guids=self.space.guid, **names)}
        found: list[dict[str, Any]] = []
        guids = list(apps)
        for first in range(0, len(guids), BATCH):
            batch = ",".join(guids[first : first + BATCH])
            url = f"{self.links['network_policy_v1']['href']}/policies?id={batch}"
            found += (await self._json("GET", url))["policies"]
        found = [policy for policy in found if policy["source"]["id"] in apps]
        destinations = await self._by_guids("apps", (policy["destination"]["id"] for policy in found))
        space_of = {guid: app["relationships"]["space"]["data"]["guid"] for guid, app in destinations.items()}
        spaces = await self._by_guids("spaces", space_of.values())
        org_of = {guid: it["relationships"]["organization"]["data"]["guid"] for guid, it in spaces.items()}
        orgs = await self._by_guids("organizations", org_of.values())
        rows = [("source", "destination", "protocol", "ports", "destination space", "destination org")]
        for policy in found:
            target = policy["destination"]
            start, end = target["ports"]["start"], target["ports"]["end"]
            space = space_of[target["id"]]
            rows.append(
                (
                    apps[policy["source"]["id"]]["name"],
                    destinations[target["id"]]["name"],
                    target["protocol"],
                    f"{start}" if start == end else f"{start}-{end}",
                    spaces[space]["name"],
                    orgs[org_of[space]]["name"],
                )
            )
        out.append("\n" + _table(rows))

    async def _security_groups(self, out: list[str]) -> None:
        out.append(f"Getting security groups as {self.user}...\n\n")
        groups = await self._all("security_groups")
        guids = {
            bound["guid"]
            for group in groups
            for lifecycle in ("running", "staging")
            for bound in group["relationships"][f"{lifecycle}_spaces"]["data"]
        }
        found = await self._json("GET", f"{self.api}/v3/spaces?guids={'%2C'.join(guids)}&include=organization")
        spaces = {space["guid"]: space for space in found["resources"]}
        orgs = {org["guid"]: org["name"] for org in found["included"]["organizations"]}
        rows = [("name", "organization", "space", "lifecycle")]
        for group in groups:
            for lifecycle in ("staging", "running"):
                if group["globally_enabled"][lifecycle]:
                    rows.append((group["name"], "<all>", "<all>", lifecycle))
                for bound in group["relationships"][f"{lifecycle}_spaces"]["data"]:
                    space = spaces[bound["guid"]]
                    org = orgs[space["relationships"]["organization"]["data"]["guid"]]
                    rows.append((group["name"], org, space["name"], lifecycle))
        out.append(_table(rows))


def _split(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    positional: list[str] = []
    options: dict[str, str] = {}
    rest = iter(arguments)
    for word in rest:
        if word == "--skip-ssl-validation":
            continue
        if word.startswith("-"):
            options[word] = next(rest)
        else:
            positional.append(word)
    return positional, options


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    padded = ("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "".join(f"{line}\n" for line in padded)
