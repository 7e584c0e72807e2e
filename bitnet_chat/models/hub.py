"""Files of the Hugging Face hub: where they are, how large, and with which hash. Through ``huggingface_hub``, which
knows the user's token, ``HF_ENDPOINT`` and ``HF_HUB_OFFLINE``; the bytes come by our own download."""

from __future__ import annotations

import os
import re

from bitnet_chat.errors import ModelError
from bitnet_chat.models.download import Remote
from bitnet_chat.models.source import Source

_INSTALL = 'pip install "bitnet-chat[hub]", or pip install huggingface_hub'
_SHA256 = re.compile(r"[0-9a-f]{64}")


def locate(source: Source) -> tuple[Remote, str]:
    """The file behind a source of the hub, and the commit it is from. Asks the hub. Raises ModelError."""
    # Read when it is imported. A pull tells the hub which file is wanted, and nothing about this computer.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        from huggingface_hub import errors, get_hf_file_metadata, get_token, hf_hub_url
    except ImportError as error:
        raise ModelError(
            f"{source.origin}: pulling from the hub needs huggingface_hub ({error})", remedy=_INSTALL
        ) from None
    # Read here and not by the library, which looks at it once, when it is imported.
    endpoint = os.environ.get("HF_ENDPOINT") or None
    try:
        url = hf_hub_url(source.repo, source.file, revision=source.revision or None, endpoint=endpoint)
        found = get_hf_file_metadata(url)
        token = get_token()
    except errors.GatedRepoError:
        raise ModelError(
            f"{source.repo} is open only to those who accepted its licence",
            remedy="do so on its page on the hub, then give a token: `hf auth login`, or HF_TOKEN",
        ) from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
        raise ModelError(
            f"the hub has no {source.origin} ({type(error).__name__})",
            remedy="look at its page on the hub for the right name; a private one needs a token: `hf auth login`",
        ) from None
    except errors.OfflineModeIsEnabled:
        raise ModelError(f"{source.origin} cannot be asked for: HF_HUB_OFFLINE is set") from None
    except Exception as error:  # its HTTP library, and with it the errors of the network, changes between releases
        raise ModelError(
            f"the hub could not be asked for {source.origin} ({type(error).__name__}: {error})"[:400],
            remedy="is this computer connected? Try again",
        ) from None
    etag = found.etag or ""
    sha256 = etag if _SHA256.fullmatch(etag) else ""  # of a large file; a small one has another kind of hash
    if source.sha256 and sha256 and source.sha256 != sha256:
        raise ModelError(
            f"{source.origin} is not the file any more that bitnet-chat knows: the hub has another one under its name",
            remedy=f"pull it by hf:{source.repo}/{source.file} --name NAME if you want that one",
            detail=f"sha256   {sha256}\nexpected {source.sha256}",
        )
    remote = Remote(
        url=url,
        origin=source.origin,
        headers={"Authorization": f"Bearer {token}"} if token else {},
        size=found.size or source.size,
        sha256=source.sha256 or sha256,
    )
    return remote, found.commit_hash or ""
