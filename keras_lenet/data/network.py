"""Files from the first of several addresses that serves them: tried again, and gone on with."""

from __future__ import annotations

import errno
import http.client
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_lenet import artifacts, terminal
from keras_lenet.errors import Error

CONNECT_SECONDS = 5.0
STALL_SECONDS = 20.0
SLOWEST = 1024
"""Bytes a second, on average, below which an address is given up, once `STALL_SECONDS` are over."""
ATTEMPTS = 4
"""Tries of each address."""
BACK_OFF = 1.0
"""Seconds before the second try; doubled before each further one."""
MAX_BYTES = 1 << 30
"""More is not taken from any address; twice the largest file there is to fetch."""

_CHUNK = 1 << 18
_NETWORK_ERRORS = (OSError, ValueError, http.client.HTTPException)  # URLError is an OSError
_BUSY = {408, 425, 429, 500, 502, 503, 504}
"""What servers answer that may answer otherwise in a while."""
_OWN = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
"""What no other address helps against."""
_ALL_IS_THERE = 416


def _open(url: str, timeout: float, start: int = 0) -> Any:
    headers = {"User-Agent": "keras-lenet"} | ({"Range": f"bytes={start}-"} if start else {})
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)


def reachable(urls: list[str]) -> list[str]:
    """Those of `urls` that answer within `CONNECT_SECONDS`, all asked at once; busy ones last.

    Looking a name up has no time limit of its own, so threads that may be abandoned do the asking.

    Raises:
        Error: none of them answers.
    """
    problems = dict.fromkeys(urls, "no answer in time")
    busy = set()

    def ask(url: str) -> None:
        try:
            with _open(url, CONNECT_SECONDS):
                problems[url] = ""
        except urllib.error.HTTPError as error:
            if error.code in _BUSY:
                busy.add(url)
            problems[url] = "" if error.code in _BUSY else str(error)
        except _NETWORK_ERRORS as error:
            problems[url] = str(error)

    threads = [threading.Thread(target=ask, args=(url,), daemon=True) for url in urls]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + CONNECT_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    answers = dict(problems)
    if all(answers.values()):
        tried = "; ".join(f"{url} ({problem})" for url, problem in answers.items())
        raise Error(f"no mirror could be reached: {tried}")
    return sorted((url for url, problem in answers.items() if not problem), key=busy.__contains__)


def download(urls: list[str], path: Path, verify: Callable[[Path], object]) -> None:
    """Fetch `path` from the first of `urls` whose bytes pass `verify`.

    What has arrived before an address fails, or this process is killed, is kept beside `path`, and
    the next attempt at that address goes on from there.

    Raises:
        Error: there is none. What `path` held before is untouched.
        OSError: the disk is full, or not to be written to.
    """
    problems = []
    for url in urls:
        key = artifacts.digest(url.encode())[:8]
        partial = path.with_name(f".{path.stem}.{key}.partial{path.suffix}")
        try:
            _fetch_verified(url, partial, verify)
        except (*_NETWORK_ERRORS, Error) as error:
            if getattr(error, "errno", None) in _OWN:
                raise
            problems.append(f"{url} ({error})")
            if isinstance(error, Error):  # not what was asked for: nothing to go on from
                partial.unlink(missing_ok=True)
            continue
        artifacts.sync(partial)
        partial.replace(path)
        artifacts.sync(path.parent)
        for other in path.parent.glob(f".{path.stem}.*.partial{path.suffix}"):
            other.unlink(missing_ok=True)
        return
    raise Error(f"{path.name} could not be downloaded: " + "; ".join(problems))


def _fetch_verified(url: str, partial: Path, verify: Callable[[Path], object]) -> None:
    resumed = partial.exists()
    _fetch(url, partial)
    try:
        verify(partial)
    except Error:
        partial.unlink()
        if not resumed:
            raise
        # What was gone on with may have been the beginning of something else.
        _fetch_verified(url, partial, verify)


def _fetch(url: str, partial: Path) -> None:
    """Get what `partial` lacks, in a few attempts."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _get_rest(url, partial)
        except _NETWORK_ERRORS as error:
            code = getattr(error, "code", None)
            if code == _ALL_IS_THERE and partial.exists():
                return None
            final = code is not None and code not in _BUSY
            if final or attempt == ATTEMPTS or getattr(error, "errno", None) in _OWN:
                raise
            terminal.say(f"{url}: {error}; trying again")
        time.sleep(BACK_OFF * 2 ** (attempt - 1))


def _get_rest(url: str, partial: Path) -> None:
    start = partial.stat().st_size if partial.exists() else 0
    with _open(url, STALL_SECONDS, start) as answer, terminal.progress(of_bytes=True) as bar:
        # A server may send all of it instead, or another part than it was asked for.
        begins = f"bytes {start}-"
        if answer.status == http.HTTPStatus.PARTIAL_CONTENT and not (
            answer.headers.get("Content-Range", "").startswith(begins)
        ):
            partial.unlink(missing_ok=True)
            raise ValueError("it sends another part than it was asked for")
        if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            start = 0
        declared = answer.headers.get("Content-Length")
        size = start + int(declared) if declared is not None else None
        _refuse_more(size or 0)
        task = bar.add_task(f"Downloading {url.rpartition('/')[2]}", total=size, completed=start)
        found, clock = start, time.monotonic()
        with partial.open("ab" if start else "wb") as file:
            while chunk := answer.read1(_CHUNK):
                file.write(chunk)
                found += len(chunk)
                bar.advance(task, len(chunk))
                _refuse_more(found)
                seconds = time.monotonic() - clock
                if seconds > STALL_SECONDS and found - start < SLOWEST * seconds:
                    raise TimeoutError(f"slower than {SLOWEST} bytes a second")
        if size is not None and found < size:
            raise ConnectionError(f"it ended after {found:,} of {size:,} bytes")


def _refuse_more(found: int) -> None:
    if found > MAX_BYTES:
        raise Error(f"more than {MAX_BYTES:,} bytes, which no file here has")
