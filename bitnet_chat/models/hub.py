"""The Hugging Face hub: files of a repository, with URL, size and hash.

Two plain requests of its public interface, so that a pull needs no library of the hub: ``HEAD`` of a file, for headers
with size, sha256 and commit, and the list of files of a repository. The environment variables and the stored token are
those of ``huggingface_hub``. A request reveals only the requested file.
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
from bitnet_chat.models.download import RemoteFile, number
from bitnet_chat.models.parts import part, stem_of
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
    remotes: tuple[RemoteFile, ...]
    """One per part."""
    commit: str


def endpoint() -> str:
    """``HF_ENDPOINT``, for mirrors; or the hub itself."""
    return (os.environ.get("HF_ENDPOINT") or _ENDPOINT).rstrip("/")


def is_offline() -> bool:
    """Whether requests to the hub are disabled."""
    set_to = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return set_to.lower() in _TRUE


def home() -> Path | None:
    """The folder of programs of the hub: ``HF_HOME``, or the default; None without a home directory."""
    chosen = os.environ.get("HF_HOME")
    if chosen:
        return paths.meant(chosen)
    cache = os.environ.get("XDG_CACHE_HOME")
    user = paths.home()
    base = Path(cache) if cache else user / ".cache" if user is not None else None
    return base / "huggingface" if base is not None else None


def locate(source: ModelSource) -> HubFile:
    """The files of a source. Asks the hub. Raises ModelError."""
    _require_online(source)
    token = _token()
    remotes, commit = [], ""
    for place in source.places:
        url = f"{endpoint()}/{source.repo}/resolve/{quote(source.revision or 'main', safe='')}/{quote(place)}"
        final, headers = _head(url, source, token)
        etag = (headers.get("X-Linked-Etag") or headers.get("ETag") or "").removeprefix("W/").strip('"')
        sha256 = etag if _SHA256.fullmatch(etag) else ""  # of a large file; a small one has another kind of hash
        if source.sha256 and sha256 and source.sha256 != sha256:
            raise ModelError(
                f"{source.origin} has changed: the hub has another file under this name",
                remedy=f"pull it by hf:{source.repo}/{source.file} --name NAME to use that one",
                detail=f"sha256   {sha256}\nexpected {source.sha256}",
            )
        told = number(headers.get("X-Linked-Size")) or number(headers.get("Content-Length"))
        remotes.append(
            RemoteFile(
                url=final,
                origin=source.origin if len(source.places) == 1 else f"hf:{source.repo}/{place}",
                headers=_authorization(token),
                size=told or source.size,
                sha256=source.sha256 or sha256,
            )
        )
        commit = headers.get("X-Repo-Commit") or commit
    return HubFile(tuple(remotes), commit)


def files(source: ModelSource) -> list[OfferedFile]:
    """All files of the repository of the source. Asks the hub. Raises ModelError."""
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
    """Whether the hub is reachable: one request for its headers, with the configured proxies. Raises nothing."""
    if is_offline():
        return False
    found: list[bool] = []
    # In a thread, since looking up the name of a computer knows no timeout.
    asking = threading.Thread(target=lambda: found.append(_answers(timeout)), daemon=True)
    asking.start()
    asking.join(2 * timeout)
    return found == [True]


def _answers(timeout: float) -> bool:
    try:
        request = urllib.request.Request(endpoint(), method="HEAD", headers=_headers(""))
        with contextlib.closing(urllib.request.build_opener(_Stay).open(request, timeout=timeout)):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return error.code < 500
    except (OSError, ValueError, HTTPException):
        return False


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the caller decides about it."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        return None


def _head(url: str, source: ModelSource, token: str) -> tuple[str, Message]:
    """The URL of a file, and its headers. The redirect of a renamed repository is followed on the hub itself; another
    redirect leads to the server with the data, and has no further information.
    """
    opener = urllib.request.build_opener(_Stay)
    for _ in range(_HOPS):
        request = urllib.request.Request(url, method="HEAD", headers=_headers(token))
        try:
            with opener.open(request, timeout=_TIMEOUT) as response:
                return url, response.headers
        except urllib.error.HTTPError as error:
            error.close()
            place = error.headers.get("Location") or ""
            if error.code not in (301, 302, 303, 307, 308):
                raise _refused(error, source) from None
            if not _is_same_server(url, urljoin(url, place)):
                del error.headers["Content-Length"]  # of the redirect itself
                return url, error.headers
            url = urljoin(url, place)
        except (OSError, ValueError, HTTPException) as error:
            raise _unreachable(error, source) from None
    raise ModelError(f"the hub redirects {source.origin} in a circle")


def _is_same_server(one: str, other: str) -> bool:
    """The token is for the hub only."""
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
    """An entry of the list; None for a folder, and for an unknown form."""
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
    if error.code in (401, 403, 404, 410):  # to a stranger a private repository is one that does not exist
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
    """The token of the user: ``HF_TOKEN``, or the one stored by ``hf auth login``. Empty: none, or an
    unreadable one.
    """
    given = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN") or ""
    stored, folder = os.environ.get("HF_TOKEN_PATH"), home()
    path = paths.meant(stored) if stored else folder / "token" if folder is not None else None
    with contextlib.suppress(OSError, ValueError):
        if not given and path is not None:
            given = path.read_text("utf-8")
    given = given.strip()
    return given if given.isascii() and given.isprintable() else ""


# What a repository of the hub offers: its models by quantization, each one file or several parts. Pure.

# Names of llama-quantize and of published files: Q4_K_M, IQ2_XXS, TQ2_0, I2_S, UD-Q4_K_XL, MXFP4, BF16.
_QUANTIZATION = re.compile(
    r"(?<![A-Za-z0-9])"
    r"(?:UD-)?(?:I?Q[1-8](?:_[A-Z0-9]{1,3}){1,3}|TQ[12]_0|I2_S|TL[12]|(?:MX|NV)FP4(?:_MOE)?|B?F16|FP?32|FP16)"
    r"(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(r"mmproj|imatrix|(?:^|/)mtp-", re.IGNORECASE)
_SHOWN = 40


@dataclass(frozen=True, slots=True)
class OfferedFile:
    """One file of a repository."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class OfferedModel:
    """A model of a repository."""

    file: str
    """The only file, or the first part."""
    quantization: str
    """In capital letters; empty if the name has none."""
    size: int
    """Bytes of all parts."""
    parts: int


def offered(files: Iterable[OfferedFile]) -> list[OfferedModel]:
    """The models among the files, the smallest first. Without image projectors, importance matrices, heads that predict
    several tokens, and models with a missing part.
    """
    sizes = {file.path: file.size for file in files if file.path.endswith(".gguf") and not _NO_MODEL.search(file.path)}
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
    """The last in the name of the file, else the last in the names of its folders."""
    for name in reversed(path.split("/")):
        if found := _QUANTIZATION.findall(stem_of(name)):
            return str(found[-1]).upper()
    return ""


def pick(source: ModelSource, models: Sequence[OfferedModel]) -> ModelSource:
    """The source with the one file of its quantization. Raises UsageError for none, or more than one."""
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
    listed = ", ".join(f"hf:{source.repo}/{each.file}" for each in fitting[:_SHOWN])
    raise UsageError(
        f"hf:{source.repo} has {len(fitting)} models of the quantization {source.quantization}",
        remedy=f"name the file: {listed}",
    )
