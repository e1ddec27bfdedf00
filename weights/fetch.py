"""Download a published checkpoint: resumed where it broke off, hashed on the disk, in its place only when it is right.

huggingface_hub builds the addresses (and so follows HF_ENDPOINT), and does no more here. Its downloader trusts the
server's own statement of what a file is, wants the hub's headers on every answer, and hashes nothing; here the size and
SHA-256 are pinned in advance, and whoever serves those bytes will do. That also settles how to resume: a range is asked
for, the total size it reports is compared with the pinned one, and should the two halves not belong together, the hash
says so. If-Range would only add that the *same* server still has the same file. The hash is taken of the file as it
lies on the disk when it is complete, and a lock keeps a second download of the same file away from it.
"""

import os
import re
import socket
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from http.client import HTTPException, HTTPResponse, InvalidURL
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from weights.atomic import check_space, flush
from weights.lock import Held, locked
from weights.published import CHUNK, PUBLISHED, Published, bar, cache_folder, expand, sha256
from weights.records import quoted

MIRROR = "PHOTOSWAP_MIRROR"
OFFLINE = ("PHOTOSWAP_OFFLINE", "HF_HUB_OFFLINE")
PASSING = (408, 425, 429, 500, 502, 503, 504)  # answers that another try may change
TRIES = 5  # in a row that bring the file no further
TIMEOUT = 30.0  # seconds of silence


class Broken(Exception):
    """The connection failed; another try may go on from there."""


class Unfit(Exception):
    """This address cannot serve the file."""


def fetch(
    name: str,
    folder: Path | None = None,
    mirrors: Sequence[str] = (),
    offline: bool | None = None,
    progress: bool = False,
    pause: float = 1.0,
) -> Path:
    """Bring a published checkpoint into the cache folder, unless it is there, and return its path.

    folder: None is `cache_folder()`. mirrors: tried in order, instead of Hugging Face's hub; each the address of a
    server laid out as the hub, or of the file itself. Empty: those of PHOTOSWAP_MIRROR, else the hub. offline: never
    ask the network; None goes by PHOTOSWAP_OFFLINE and HF_HUB_OFFLINE. pause: seconds before the second try of a
    broken connection, doubled for each further one. Until the hash is right the file is called NAME.part; what an
    interrupted run left there is gone on from. Warns when it moves on to the next mirror.
    Raises ValueError when there is no such name, no room, no network wanted, no mirror that serves the file, when
    somebody else is fetching it, or when another file stands in its place.
    """
    if name not in PUBLISHED:
        raise ValueError(f"no published checkpoint {name!r}: want one of {', '.join(PUBLISHED)}")
    published = PUBLISHED[name]
    target = (expand(folder) if folder else cache_folder()) / published.here
    if target.exists():
        check_published(target, published, progress)
        return target
    if is_offline() if offline is None else offline:
        raise ValueError(f"{name} is not at {target}, and no network is wanted: fetch it elsewhere and copy it there")
    addresses = [address(published, mirror) for mirror in mirrors or mirrors_wanted() or (None,)]
    partial = target.with_name(f"{target.name}.part")
    done = partial.stat().st_size if partial.exists() else 0
    check_space(target.parent, published.bytes - done)
    made = [folder for folder in (target.parent, *target.parent.parents) if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with locked(partial.with_name(f"{partial.name}.lock")):
            if not target.exists():  # or another process has finished it since
                with PartialFile(partial, published, progress) as part:
                    _from_any(addresses, part, pause, name)
                flush(partial)
                os.replace(partial, target)
    except Held as holder:
        raise ValueError(
            f"{holder} is fetching {target} already: wait for it, or stop it and go on from there"
        ) from None
    finally:
        for empty in made:  # of what a refusal leaves behind; one that holds something stays
            with suppress(OSError):
                empty.rmdir()
    return target


def is_offline() -> bool:
    """Whether a variable of the environment forbids the network."""
    return any(os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE") for variable in OFFLINE)


def mirrors_wanted() -> list[str]:
    """The mirrors of PHOTOSWAP_MIRROR, which stand apart by spaces or commas."""
    return re.split(r"[\s,]+", value) if (value := os.environ.get(MIRROR, "").strip(" \t\n,")) else []


def address(published: Published, mirror: str | None) -> str:
    """Where a mirror (None: the hub, or HF_ENDPOINT) has the file. Raises ValueError when that is no web address."""
    from huggingface_hub import hf_hub_url

    if mirror is not None and mirror.endswith((".safetensors", ".ckpt")):
        return _checked(mirror)
    endpoint = mirror and _checked(mirror).rstrip("/")
    return _checked(hf_hub_url(published.repository, published.file, revision=published.revision, endpoint=endpoint))


def _checked(url: str) -> str:
    """The address, if it can be one."""
    try:
        parts = urlsplit(url)
        host, _ = (parts.hostname or "").encode("idna"), parts.port
        fits = bool(host) and parts.scheme in ("http", "https") and url.isprintable() and " " not in url
    except ValueError:  # brackets around no address, a port that is no number, a host that is too long
        fits = False
    if not fits:
        raise ValueError(
            f"mirror {quoted(url, 120)} is no web address: want http:// or https://, laid out as huggingface.co"
        )
    return url


def check_published(path: Path, published: Published, progress: bool = False) -> None:
    """Raise ValueError unless the file is the published one, byte for byte."""
    found = path.stat().st_size
    wanted = f"{published.here} as published"
    if found != published.bytes:
        raise ValueError(
            f"{path} is not {wanted}: it has {found} bytes, not {published.bytes}; move it away and fetch it again"
        )
    if (digest := sha256(path, progress)) != published.sha256:
        raise ValueError(
            f"{path} is not {wanted}: its SHA-256 is {digest}, not {published.sha256}; move it away and fetch it again"
        )


class PartialFile:
    """A file as far as it has come, open to be gone on with. Empty, it leaves nothing behind."""

    def __init__(self, path: Path, published: Published, progress: bool):
        self.path, self.published, self.total = path, published, published.bytes
        self.size = path.stat().st_size if path.exists() and path.stat().st_size <= self.total else 0
        self._file = open(path, "r+b" if path.exists() else "w+b")  # noqa: SIM115 - closed by __exit__
        self._file.truncate(self.size)
        self._file.seek(self.size)
        self._progress = progress
        self._bar = bar(self.total, published.here, progress, self.size)

    def __enter__(self) -> "PartialFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._file.close()
        if not self.size:
            self.path.unlink(missing_ok=True)

    def digest(self) -> str:
        """The SHA-256 of what lies on the disk."""
        return sha256(self.path, self._progress)

    def append(self, chunk: bytes) -> None:
        """Write what has come. Raises OSError when the disk is full."""
        self._file.write(chunk)
        self._file.flush()
        self.size += len(chunk)
        self._bar.update(len(chunk))

    def restart(self) -> None:
        """Discard what has come."""
        self._bar.update(-self.size)
        self._file.seek(0)
        self._file.truncate()
        self.size = 0


def _from_any(addresses: Sequence[str], part: PartialFile, pause: float, name: str) -> None:
    """Complete the part from the first address that can. Raises ValueError when none can."""
    faults: list[str] = []
    for url in addresses:
        if faults:
            warnings.warn(f"{faults[-1]}; trying {urlsplit(url).netloc}", stacklevel=3)
        try:
            _from_one(url, part, pause)
            return
        except Unfit as fault:
            faults.append(f"{urlsplit(url).netloc} {fault}")
    kept = f"; {part.path} holds what came, and the same command goes on from there" * bool(part.size)
    raise ValueError(f"could not fetch {name}: {'; '.join(faults)}{kept}")


def _from_one(url: str, part: PartialFile, pause: float) -> None:
    """Complete the file from one address; what fails the hash is deleted. Raises Unfit."""
    for resumed in (True, False) if part.size else (False,):
        _complete(url, part, pause)
        found = part.digest()
        if found == part.published.sha256:
            return
        part.restart()  # if resumed, the bytes at fault may have been there before: once more, all from here
        if not resumed:
            raise Unfit(f"serves a file whose SHA-256 is {found}, not {part.published.sha256}: it was deleted")


def _complete(url: str, part: PartialFile, pause: float) -> None:
    """Try until the part has its size, or several tries in a row brought it no further than before."""
    furthest, tries = part.size, 0
    while part.size < part.total:
        try:
            for chunk in _chunks(url, part):
                part.append(chunk)
        except Broken as broken:
            furthest, tries = max(furthest, part.size), 1 if part.size > furthest else tries + 1
            if tries == TRIES:
                raise Unfit(f"{broken}, {TRIES} times in a row, at {part.size} of {part.total} bytes") from broken
            time.sleep(pause * 2 ** (tries - 1))


def _chunks(url: str, part: PartialFile) -> Iterator[bytes]:
    """The bytes that the part still lacks, as they come. Raises Broken and Unfit."""
    with _open(url, part.size) as response:
        _check_start(response, part)
        while chunk := _read(response):
            if part.size + len(chunk) > part.total:
                part.restart()
                raise Unfit(f"sends more than the {part.total} bytes that were published")
            yield chunk
    if part.size < part.total:
        raise Broken("broke off")


def _open(url: str, start: int) -> HTTPResponse:
    headers = {"User-Agent": "photoswap"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        return urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        fault = f"answers {error.code} {error.reason}"
        raise (Broken if error.code in PASSING else Unfit)(fault) from error
    except (InvalidURL, ValueError) as error:  # from a redirection: ours has been looked at
        raise Unfit(f"leads to no web address ({error})") from error
    except (HTTPException, OSError) as error:
        reason = getattr(error, "reason", error)
        unknown = isinstance(reason, socket.gaierror) and reason.errno == socket.EAI_NONAME
        raise (Unfit if unknown else Broken)(f"is not to be reached ({reason})") from error


def _read(response: HTTPResponse) -> bytes:
    try:
        return response.read1(CHUNK)
    except (HTTPException, OSError) as error:
        raise Broken(f"broke off ({error})") from error


def _check_start(response: HTTPResponse, part: PartialFile) -> None:
    """Have the part stand where the answer begins. Raises Unfit when it is not the file's size, or begins elsewhere."""
    length = response.headers.get("Content-Length")
    if response.status == 206:
        told = response.headers.get("Content-Range", "")
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", told)
        if span is None or int(span[1]) != part.size:
            raise Unfit(f"answers with another range than was asked for ({told or 'unnamed'})")
        size = int(span[2]) if span[2] != "*" else part.total
    else:
        size = int(length) if length else part.total
    if size != part.total:
        raise Unfit(f"has a file of {size} bytes where {part.total} were published")
    if response.status != 206 and part.size:  # it ignores ranges
        part.restart()
