"""The Hugging Face hub: the files of a repository with URL, size and hash, and the models among them.

Two requests of its public API are used, so that a pull does not need the client library: ``HEAD`` of a file, whose
headers have size, SHA-256 and commit, and the list of files of a repository. Environment variables and the stored token
are those of ``huggingface_hub``. A request reveals only the name of the requested file.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from bitnet_chat import paths
from bitnet_chat.errors import ModelError, UsageError
from bitnet_chat.models.file_download import RemoteFile, number
from bitnet_chat.models.names import part, stem_of
from bitnet_chat.models.registry import ModelSource, chosen, named
from bitnet_chat.version import __version__

_ENDPOINT = "https://huggingface.co"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NEXT = re.compile(r'<([^>]+)>;\s*rel="next"')
_TIMEOUT = 20.0
_HOPS = 5
_MAX_PAGE, _MAX_PAGES = 1 << 24, 20
_TRUE = ("1", "on", "yes", "true")


@dataclass(frozen=True, slots=True)
class HubFile:
    """A located file, or the located parts of a model."""

    remotes: tuple[RemoteFile, ...]
    """One for each part."""
    commit: str


def endpoint() -> str:
    """Return the base URL: ``HF_ENDPOINT``, for mirrors, or the hub."""
    return (os.environ.get("HF_ENDPOINT") or _ENDPOINT).rstrip("/")


def is_offline() -> bool:
    """Whether requests to the hub are disabled by the user (``HF_HUB_OFFLINE`` or ``TRANSFORMERS_OFFLINE``)."""
    set_to = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return set_to.lower() in _TRUE


def home() -> Path | None:
    """Return the directory of the hub client: ``HF_HOME`` or its default; None without a home directory."""
    chosen = os.environ.get("HF_HOME")
    if chosen:
        return paths.expand(chosen)
    cache = os.environ.get("XDG_CACHE_HOME")
    user = paths.home()
    base = Path(cache) if cache else user / ".cache" if user is not None else None
    return base / "huggingface" if base is not None else None


def locate(source: ModelSource) -> HubFile:
    """Request URL, size and hash of the files of ``source``. Raises ModelError."""
    _require_online(source)
    token = _token()
    remotes, commit = [], ""
    for path in source.places:
        url = f"{endpoint()}/{source.repo}/resolve/{quote(source.revision or 'main', safe='')}/{quote(path)}"
        final, headers = _head(url, source, token)
        etag = (headers.get("X-Linked-Etag") or headers.get("ETag") or "").removeprefix("W/").strip('"')
        sha256 = etag if _SHA256.fullmatch(etag) else ""  # the ETag of a small file is another hash
        if source.sha256 and sha256 and source.sha256 != sha256:
            raise ModelError(
                f"{source.origin} has changed: the hub has another file under this name",
                remedy=f"pull it by hf:{source.repo}/{source.file} --name NAME to use that one",
                detail=f"sha256   {sha256}\nexpected {source.sha256}",
            )
        size = number(headers.get("X-Linked-Size")) or number(headers.get("Content-Length"))
        remotes.append(
            RemoteFile(
                url=final,
                origin=source.origin if len(source.places) == 1 else f"hf:{source.repo}/{path}",
                headers=_authorization(token),
                size=size or source.size,
                sha256=source.sha256 or sha256,
            )
        )
        commit = headers.get("X-Repo-Commit") or commit
    return HubFile(tuple(remotes), commit)


def files(source: ModelSource) -> list[OfferedFile]:
    """Request the list of files in the repository of ``source``. Raises ModelError."""
    _require_online(source)
    token = _token()
    revision = quote(source.revision or "main", safe="")
    url = f"{endpoint()}/api/models/{source.repo}/tree/{revision}?recursive=true"
    found: list[OfferedFile] = []
    for _ in range(_MAX_PAGES):
        headers, page = _page(url, source, token)
        found += [file for each in page if (file := _file(each)) is not None]
        following = _NEXT.search(headers.get("Link") or "")
        url = urljoin(url, following[1]) if following else ""
        if not _is_same_server(url, endpoint()):
            break
    return found


def answers(timeout: float = 2.0) -> bool:
    """Whether the hub is reachable: one HEAD request, through the configured proxies, within ``2 * timeout`` seconds.
    Does not raise."""
    if is_offline():
        return False
    found: list[bool] = []
    # In a thread, since name resolution has no timeout.
    asking = threading.Thread(target=lambda: found.append(_answers(timeout)), daemon=True)
    asking.start()
    asking.join(2 * timeout)
    return found == [True]


def _answers(timeout: float) -> bool:
    try:
        request = urllib.request.Request(endpoint(), method="HEAD", headers=_headers(""))
        with contextlib.closing(urllib.request.build_opener(_NoRedirects).open(request, timeout=timeout)):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return error.code < 500
    except (OSError, ValueError, HTTPException):
        return False


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Does not follow redirects; the caller decides."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        return None


def _head(url: str, source: ModelSource, token: str) -> tuple[str, Message]:
    """Return the URL of a file and its headers.

    The redirect of a renamed repository is followed on the hub. A redirect to another server leads to the data; its
    response has all required headers.
    """
    opener = urllib.request.build_opener(_NoRedirects)
    for _ in range(_HOPS):
        request = urllib.request.Request(url, method="HEAD", headers=_headers(token))
        try:
            with opener.open(request, timeout=_TIMEOUT) as response:
                return url, response.headers
        except urllib.error.HTTPError as error:
            error.close()
            target = error.headers.get("Location") or ""
            if error.code not in (301, 302, 303, 307, 308):
                raise _refused(error, source) from None
            if not _is_same_server(url, urljoin(url, target)):
                del error.headers["Content-Length"]  # the size of the redirect response
                return url, error.headers
            url = urljoin(url, target)
        except (OSError, ValueError, HTTPException) as error:
            raise _unreachable(error, source) from None
    raise ModelError(f"the hub redirects {source.origin} in a loop")


def _is_same_server(one: str, other: str) -> bool:
    """Whether two URLs have the same scheme and host. The token must not be sent to another server."""
    return urlsplit(one)[:2] == urlsplit(other)[:2]


def _page(url: str, source: ModelSource, token: str) -> tuple[Message, list[Any]]:
    request = urllib.request.Request(url, headers={"User-Agent": _headers("")["User-Agent"]})
    for name, value in _authorization(token).items():
        request.add_unredirected_header(name, value)
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            content = response.read(_MAX_PAGE + 1)
            listed = json.loads(content) if len(content) <= _MAX_PAGE else None
            if not isinstance(listed, list):
                raise ModelError(f"the list of files of the hub for {source.origin} is invalid")
            return response.headers, listed
    except urllib.error.HTTPError as error:
        error.close()
        raise _refused(error, source) from None
    except (OSError, ValueError, HTTPException) as error:
        raise _unreachable(error, source) from None


def _file(entry: object) -> OfferedFile | None:
    """Parse an entry of the list; None for a directory or an unknown form."""
    if not isinstance(entry, dict) or entry.get("type") != "file" or not isinstance(entry.get("path"), str):
        return None
    size = entry.get("size")
    return OfferedFile(entry["path"], size if type(size) is int and size > 0 else 0)


def _refused(error: urllib.error.HTTPError, source: ModelSource) -> ModelError:
    code = error.headers.get("X-Error-Code") or ""
    if code == "GatedRepo":
        return ModelError(
            f"{source.repo} requires acceptance of its licence",
            remedy="accept it on its page on the hub, then provide a token: HF_TOKEN=TOKEN, or `hf auth login`",
        )
    if error.code in (401, 403, 404, 410):  # without access, a private repository is reported as missing
        return ModelError(
            f"the hub has no {source.origin} ({code or f'HTTP {error.code}'})",
            remedy="check the name on its page on the hub; a private one requires a token: HF_TOKEN=TOKEN",
        )
    return ModelError(
        f"the request to the hub for {source.origin} failed (HTTP {error.code})", remedy="try again later"
    )


def _unreachable(error: Exception, source: ModelSource) -> ModelError:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return ModelError(
        f"the request to the hub for {source.origin} failed ({type(reason).__name__}: {reason})"[:400],
        remedy="check the network connection and try again; HF_ENDPOINT=ADDRESS selects a mirror",
    )


def _require_online(source: ModelSource) -> None:
    if is_offline():
        raise ModelError(f"{source.origin} cannot be requested: HF_HUB_OFFLINE is set")


def _headers(token: str) -> dict[str, str]:
    agent = {"User-Agent": f"bitnet-chat/{__version__}", "Accept-Encoding": "identity"}
    return agent | dict(_authorization(token))


def _authorization(token: str) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _token() -> str:
    """Return the access token: ``HF_TOKEN``, or the one stored by ``hf auth login``; empty without a readable one."""
    given = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN") or ""
    stored, folder = os.environ.get("HF_TOKEN_PATH"), home()
    path = paths.expand(stored) if stored else folder / "token" if folder is not None else None
    with contextlib.suppress(OSError, ValueError):
        if not given and path is not None:
            given = path.read_text("utf-8")
    given = given.strip()
    return given if given.isascii() and given.isprintable() else ""


# Quantizations in file names, as in llama-quantize and in published files: Q4_K_M, IQ2_XXS, TQ2_0, I2_S, UD-Q4_K_XL,
# MXFP4, BF16.
_QUANTIZATION = re.compile(
    r"(?<![A-Za-z0-9])"
    r"(?:UD-)?(?:I?Q[1-8](?:_[A-Z0-9]{1,3}){1,3}|TQ[12]_0|I2_S|TL[12]|(?:MX|NV)FP4(?:_MOE)?|B?F16|FP?32|FP16)"
    r"(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_COMPANION = re.compile(r"mmproj|imatrix|(?:^|/)mtp-", re.IGNORECASE)
_MAX_LISTED = 40


@dataclass(frozen=True, slots=True)
class OfferedFile:
    """A file of a repository. ``size`` in bytes."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class OfferedModel:
    """A model of a repository."""

    file: str
    """The only file, or the first part."""
    quantization: str
    """In upper case; empty if the file name has none."""
    size: int
    """Bytes of all parts."""
    parts: int
    """Number of files."""


def offered(files: Iterable[OfferedFile]) -> list[OfferedModel]:
    """Find the models among the files, smallest first.

    Excludes image projectors, importance matrices, multi-token prediction heads, and models with missing parts. Pure.
    """
    sizes = {file.path: file.size for file in files if file.path.endswith(".gguf") and not _COMPANION.search(file.path)}
    found = []
    for path, size in sizes.items():
        piece = part(path)
        if piece is None:
            found.append(OfferedModel(path, quantization_of(path), size, 1))
        elif piece.number == 1 and all(each in sizes for each in piece.all()):
            total = sum(sizes[each] for each in piece.all())
            found.append(OfferedModel(path, quantization_of(path), total, piece.count))
    return sorted(found, key=lambda each: (each.size, each.file))


def quantization_of(path: str) -> str:
    """Return the last quantization in the file name, or else in the names of its directories; empty without one."""
    for name in reversed(path.split("/")):
        if found := _QUANTIZATION.findall(stem_of(name)):
            return str(found[-1]).upper()
    return ""


def pick(source: ModelSource, models: Sequence[OfferedModel]) -> ModelSource:
    """Return ``source`` with the file of its quantization. Raises UsageError if there is none, or more than one."""
    wanted = source.quantization.upper()
    fitting = [each for each in models if each.quantization == wanted] or [
        each for each in models if each.quantization.removeprefix("UD-") == wanted
    ]
    if len(fitting) == 1:
        return named(chosen(source, fitting[0].file))
    if not fitting:
        raise UsageError(
            f"hf:{source.repo} has no model of the quantization {source.quantization}",
            remedy="available: "
            + (", ".join(dict.fromkeys(each.quantization or each.file for each in models)) or "none"),
        )
    listed = ", ".join(f"hf:{source.repo}/{each.file}" for each in fitting[:_MAX_LISTED])
    raise UsageError(
        f"hf:{source.repo} has {len(fitting)} models of the quantization {source.quantization}",
        remedy=f"name the file: {listed}",
    )
