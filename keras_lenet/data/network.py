"""Files from the first of several addresses that serves them."""

from __future__ import annotations

import http.client
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_lenet import terminal
from keras_lenet.artifacts import replacing
from keras_lenet.errors import Error

CONNECT_SECONDS = 5.0
STALL_SECONDS = 20.0
_CHUNK = 1 << 18
_NETWORK_ERRORS = (OSError, ValueError, http.client.HTTPException)  # URLError is an OSError


def _open(url: str, timeout: float = STALL_SECONDS) -> Any:
    request = urllib.request.Request(url, headers={"User-Agent": "keras-lenet"})
    return urllib.request.urlopen(request, timeout=timeout)


def reachable(urls: list[str]) -> list[str]:
    """Those of `urls` that answer within `CONNECT_SECONDS`, all asked at once.

    Looking a name up has no time limit of its own, so threads that may be abandoned do the asking.

    Raises:
        Error: none of them answers.
    """
    problems = dict.fromkeys(urls, "no answer in time")

    def ask(url: str) -> None:
        try:
            with _open(url, CONNECT_SECONDS):
                problems[url] = ""
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
    return [url for url, problem in answers.items() if not problem]


def download(urls: list[str], path: Path, verify: Callable[[Path], object]) -> None:
    """Fetch `path` from the first of `urls` whose bytes pass `verify`.

    Raises:
        Error: there is none. What `path` held before is untouched.
    """
    problems = []
    for url in urls:
        try:
            with replacing(path) as temporary:
                _fetch(url, temporary)
                verify(temporary)
            return
        except (*_NETWORK_ERRORS, Error) as error:
            problems.append(f"{url} ({error})")
    raise Error(f"{path.name} could not be downloaded: " + "; ".join(problems))


def _fetch(url: str, path: Path) -> None:
    with _open(url) as answer, path.open("wb") as file, terminal.progress(of_bytes=True) as bar:
        size = int(answer.headers.get("Content-Length") or 0) or None
        task = bar.add_task(f"Downloading {url.rpartition('/')[2]}", total=size)
        while chunk := answer.read(_CHUNK):
            file.write(chunk)
            bar.advance(task, len(chunk))
