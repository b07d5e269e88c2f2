"""What does Garden start for each action? Carries stdin and the container's network namespace to the agent, prints its
answer. Run as `python3 -I -S networker.py --configFile=X --action up --handle H`; imports only what starts fast.

    to the agent     `1 ACTION HANDLE_BYTES STDIN_BYTES\\n` HANDLE STDIN, and with an `up` the namespace as SCM_RIGHTS
    from the agent   `0` and what to print on stdout, or `1` and one line for stderr; then the end of the stream

When the agent is away a `down` is left in the spool (the agent runs it before any new `up`) and succeeds, since Garden
would keep the handle for ever otherwise; every other action fails with one line.
"""

import posix
import sys

ACTIONS = ("up", "down", "net-in", "net-out", "bulk-net-out")
DIRECT = "cfnetworking: this is a plugin for Garden-runC.  Don't run it directly."
GRACE_SECONDS = 5.0
"""On top of the configured deadline, so that the agent, which keeps the same deadline, can say what was away."""


class Failed(Exception):  # noqa: N818 - one line for stderr
    pass


class Away(Failed):
    """The agent did not answer."""


def arguments(words: list[str]) -> tuple[str, str, str]:
    """(config file, action, handle) out of Garden's words: `--name value` or `--name=value`, one dash or two."""
    found = {"configFile": "", "action": "", "handle": ""}
    words = list(words)
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            continue
        name, equals, value = word.lstrip("-").partition("=")
        if name not in found:
            continue
        if not equals:
            if not words:
                raise Failed(f"--{name} needs a value")
            value = words.pop(0)
        found[name] = value
    for name, value in found.items():
        if not value:
            raise Failed(f"--{name} is missing")
    if found["action"] not in ACTIONS:
        raise Failed(f"unrecognized action: {found['action']!r}; known are {', '.join(ACTIONS)}")
    return found["configFile"], found["action"], found["handle"]


def read_all(descriptor: int) -> bytes:
    parts = []
    while part := posix.read(descriptor, 65536):
        parts.append(part)
    return b"".join(parts)


def setting(text: str, name: str) -> str:
    """The value of one key of a flat JSON object without escapes, as it is written; empty when it is not there."""
    at = text.find(f'"{name}"')
    if at < 0:
        return ""
    value = text[at + len(name) + 2 :].lstrip()
    if not value.startswith(":"):
        return ""
    value = value[1:].lstrip()
    if value.startswith('"'):
        return value[1 : value.index('"', 1)]
    end = 0
    while end < len(value) and value[end] not in ",} \t\r\n":
        end += 1
    return value[:end]


def settings(path: str) -> tuple[str, float, str]:
    """(socket, deadline in seconds, spool directory) of the config file."""
    try:
        descriptor = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
        try:
            text = read_all(descriptor).decode()
        finally:
            posix.close(descriptor)
    except (OSError, ValueError) as fault:
        raise Failed(f"cannot read the config file {path!r}: {fault}") from None
    try:
        if "\\" in text:
            import json

            known = json.loads(text)
            socket, deadline, spool = (known.get(name, "") for name in ("socket", "deadline_seconds", "spool_dir"))
        else:
            socket, deadline, spool = (setting(text, name) for name in ("socket", "deadline_seconds", "spool_dir"))
        seconds = float(deadline or 25.0)
    except (ValueError, AttributeError, TypeError) as fault:
        raise Failed(f"the config file {path!r} is not as expected: {fault}") from None
    if not isinstance(socket, str) or not socket.startswith("/"):
        raise Failed(f'the config file {path!r} names no socket; set "socket" to the agent\'s absolute path')
    if not 0 < seconds <= 3600:
        raise Failed(f'the config file {path!r}: "deadline_seconds" must be between 0 and 3600')
    return socket, seconds, spool or socket.rpartition("/")[0] + "/spool"


def process_of(stdin: bytes) -> int | None:
    """The number after the key `Pid` (in any case), or None. A quote inside a JSON string is escaped, so a tenant's
    text cannot look like this key, and a property of that name has no number for a value."""
    lower = stdin.lower()
    at = lower.find(b'"pid"')
    while at >= 0:
        rest = stdin[at + 5 : at + 64].lstrip()
        if rest.startswith(b":"):
            rest = rest[1:].lstrip()
            end = 0
            while rest[end : end + 1].isdigit():
                end += 1
            if end:
                return int(rest[:end])
        at = lower.find(b'"pid"', at + 1)
    return None


def namespace(stdin: bytes) -> int | None:
    """A descriptor of the container's network namespace; Pid 0 says that it is descriptor 3."""
    process = process_of(stdin)
    if process is None:
        return None
    path = f"/proc/{process}/ns/net" if process else "/proc/self/fd/3"
    try:
        return posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError as fault:
        raise Failed(f"cannot open the network namespace of process {process}: {fault.strerror}") from None


def request(action: str, handle: bytes, stdin: bytes) -> tuple[bytes, bytes]:
    """Header and body, as the agent reads them."""
    return f"1 {action} {len(handle)} {len(stdin)}\n".encode(), handle + stdin


def ask(path: str, deadline: float, head: bytes, body: bytes, descriptor: int | None) -> bytes:
    """The agent's whole reply. Raises Away when there is none."""
    import _socket

    try:
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC, 0)
        sock.settimeout(deadline + GRACE_SECONDS)
        sock.connect(path)
        if descriptor is None:
            sock.sendall(head)
        else:
            rights = descriptor.to_bytes(4, sys.byteorder)
            sent = sock.sendmsg([head], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
            if sent < len(head):
                sock.sendall(head[sent:])
        sock.sendall(body)
        sock.shutdown(_socket.SHUT_WR)
        parts = []
        while part := sock.recv(65536):
            parts.append(part)
    except TimeoutError:
        raise Away(f"the agent at {path} did not answer within {deadline + GRACE_SECONDS:g} s") from None
    except OSError as fault:
        raise Away(f"the agent at {path} is away: {fault.strerror or fault}") from None
    reply = b"".join(parts)
    if reply[:1] not in (b"0", b"1"):
        raise Away(f"the agent at {path} went away before it answered")
    return reply


def leave_tombstone(spool: str, handle: bytes) -> None:
    """A file that says `down HANDLE`, whole or not at all. Its name keeps the order of arrival."""
    from time import time_ns

    if not posix.access(spool, posix.F_OK):
        try:
            posix.mkdir(spool, 0o700)
        except FileExistsError:
            pass
    name = f"{spool}/{time_ns():020d}-{posix.getpid()}"
    descriptor = posix.open(name + ".new", posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC, 0o600)
    try:
        posix.write(descriptor, handle)
        posix.fsync(descriptor)
    finally:
        posix.close(descriptor)
    posix.rename(name + ".new", name + ".down")


def write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[posix.write(descriptor, content) :]


def run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        write_all(2, DIRECT.encode() + b"\n")
        return 1
    path, action, handle = arguments(words)
    socket, deadline, spool = settings(path)
    raw = handle.encode("utf-8", "surrogateescape")
    stdin = read_all(0)
    descriptor = namespace(stdin) if action == "up" else None
    try:
        reply = ask(socket, deadline, *request(action, raw, stdin), descriptor)
    except Away as away:
        if action != "down":
            raise
        try:
            leave_tombstone(spool, raw)
        except OSError as fault:
            raise Failed(f"{away}, and its spool {spool} cannot be written: {fault.strerror}") from None
        return 0
    if reply[:1] == b"0":
        write_all(1, reply[1:])
        return 0
    raise Failed(reply[1:].decode("utf-8", "replace"))


def main() -> int:
    try:
        return run(sys.argv[1:])
    except Failed as failed:
        line = str(failed)
    except BaseException as fault:  # a traceback would hide the one line that Garden logs
        line = f"unexpected {type(fault).__name__}: {fault}"
    try:
        write_all(2, f"cfbridge: {' '.join(line.split())}\n".encode("utf-8", "replace"))
    except OSError:
        pass
    return 1


if __name__ == "__main__":
    posix._exit(main())
