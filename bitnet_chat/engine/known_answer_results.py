"""The known answers of small models, and the stored results of engines.

:mod:`bitnet_chat.engine_checks.known_answers` asks an engine, once for each build on each processor; the results are in
the data directory. A check takes about 0.25 s for each type of weights (measured with the prebuilt libraries).
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from bitnet_chat import paths
from bitnet_chat.engine.binary import Dialect, EngineBinary
from bitnet_chat.engine.install import manifest
from bitnet_chat.engine.known_answer_model import SmallModel
from bitnet_chat.models.store import write_json

if TYPE_CHECKING:
    from bitnet_chat.models.info import ModelInfo


LENGTH = 3
"""Number of tokens (letters) of each known answer."""

# Computed by a reference implementation in float64 (``tests/support/bitnet_reference.py``, which prints this table).
# The logit of each token is at least 0.4 standard deviations above all others; differences in rounding between engines
# (mostly of activations in eight bits) change a logit by 0.05. All prompts end in the same tokens, and the replies
# differ, so that a model whose matrices have no effect cannot give the known answers.
ANSWERS: dict[SmallModel, tuple[tuple[int, str], ...]] = {
    SmallModel("F32"): ((1, "GGG"), (2, "ESN"), (15, "mDM"), (17, "RFu")),
    SmallModel("F16"): ((1, "GGG"), (2, "ESN"), (15, "mDM"), (17, "RFu")),
    SmallModel("BF16"): ((1, "GGG"), (2, "ESN"), (15, "mDM"), (17, "RFu")),
    SmallModel("Q4_0"): ((4, "kdG"), (5, "zCi"), (14, "XoN"), (38, "diz")),
    SmallModel("Q4_1"): ((1, "LXQ"), (6, "wQu"), (8, "eee"), (10, "WRR")),
    SmallModel("Q5_0"): ((3, "zPH"), (9, "Mzp"), (10, "hWW"), (20, "ppp")),
    SmallModel("Q5_1"): ((2, "Gkk"), (4, "ooz"), (8, "nqf"), (11, "hXt")),
    SmallModel("Q8_0"): ((0, "pNJ"), (2, "XUq"), (10, "FFF"), (13, "BBB")),
    SmallModel("Q2_K"): ((7, "vjQ"), (14, "NAO"), (17, "lxQ"), (23, "Pip")),
    SmallModel("Q3_K"): ((7, "xxx"), (13, "Dmt"), (21, "vGx"), (25, "ble")),
    SmallModel("Q4_K"): ((1, "rcc"), (17, "NNN"), (19, "vkV"), (24, "BBB")),
    SmallModel("Q5_K"): ((12, "dbd"), (14, "bdo"), (17, "MMM"), (18, "BbT")),
    SmallModel("Q6_K"): ((4, "HML"), (6, "OVy"), (8, "Eff"), (11, "wGe")),
    SmallModel("IQ4_NL"): ((0, "zzz"), (10, "dFi"), (18, "Nii"), (45, "wgV")),
    SmallModel("IQ4_XS"): ((0, "bbb"), (9, "Yfc"), (13, "yau"), (15, "Xpe")),
    SmallModel("MXFP4"): ((0, "NAr"), (1, "Arr"), (2, "RRR"), (3, "tjI")),
    SmallModel("TQ1_0"): ((18, "Slb"), (20, "mRM"), (22, "kkk"), (28, "isc")),
    SmallModel("TQ2_0"): ((1, "QTw"), (2, "yLy"), (5, "ddd"), (9, "JTq")),
    SmallModel("I2_S"): ((4, "ZFB"), (8, "wjK"), (13, "pBB"), (15, "DZj")),
    SmallModel("IQ1_BN"): ((3, "mEE"), (9, "JDy"), (10, "TEG"), (16, "eee")),
    SmallModel("IQ2_BN"): ((1, "vWN"), (9, "rhh"), (11, "WWW"), (15, "utZ")),
    SmallModel("IQ2_BN_R4"): ((6, "cMQ"), (9, "SSS"), (10, "djX"), (14, "YjM")),
    SmallModel("TQ2_0", "bitnet"): ((5, "pRx"), (8, "iNE"), (10, "LLL"), (14, "IAA")),
    SmallModel("IQ2_BN", "bitnet"): ((2, "KsF"), (4, "uIM"), (17, "Suu"), (18, "rdK")),
    SmallModel("I2_S", "bitnet"): ((2, "jqn"), (4, "ZZZ"), (6, "RJG"), (9, "QtB")),
    SmallModel("IQ2_BN", "bitnet-b1.58"): ((2, "Ksy"), (5, "oEc"), (18, "rdK"), (19, "mDf")),
    SmallModel("IQ1_BN", "bitnet-b1.58"): ((0, "NNI"), (1, "jgU"), (5, "HAb"), (9, "WpN")),
    SmallModel("IQ2_BN_R4", "bitnet-b1.58"): ((0, "dPx"), (2, "npw"), (3, "HBh"), (9, "EIw")),
    SmallModel("I2_S", "bitnet-b1.58"): ((3, "ajo"), (4, "ZEE"), (5, "qGw"), (6, "udj")),
}
"""Known answers by model: numbers of questions (:func:`bitnet_chat.engine.known_answer_model.question`), each with the
first letters of the reply.
"""


_FILE = "known-answers.json"
_TABLE = sha256(repr(ANSWERS).encode()).hexdigest()[:16]
"""Identifies the known answers: results of other ones are ignored."""


@dataclass(frozen=True, slots=True)
class AnswerVerdict:
    """The result for one model. ``wrong``: the wrong answer, or the reason why there is none; empty if it is
    correct.
    """

    model: SmallModel
    wrong: str = ""


def offered(engine: EngineBinary) -> list[SmallModel]:
    """Return the models whose tensor types and architectures an engine supports, without those that it is known to
    compute wrongly. Reads the files of the engine.
    """
    from bitnet_chat.models.engine_support import known
    from bitnet_chat.models.incompatibility import misfit

    names = known(engine.path, _infos().values())
    if names is None:
        return []
    return [model for model, info in _infos().items() if misfit(info, names, engine.path.name) is None]


@cache
def _infos() -> dict[SmallModel, ModelInfo]:
    from bitnet_chat.models.info import read_info

    infos = {}
    with tempfile.TemporaryDirectory(prefix="bitnet-chat-") as folder:
        for model in ANSWERS:
            path = Path(folder) / "model.gguf"
            model.write(path)
            infos[model] = read_info(path)
    return infos


def kept(engine: EngineBinary) -> Mapping[str, str]:
    """Return the stored results of an engine: :attr:`AnswerVerdict.wrong` by the name of the model. Raises nothing."""
    return _read().get(key(engine), {})


def key(engine: EngineBinary) -> str:
    """Return the key of an engine for stored results, which depends on the build and the processor; empty if the engine
    does not exist.
    """
    file = engine.path / "package.json" if engine.dialect is Dialect.NATIVE else engine.path
    try:
        status = file.stat()
    except OSError:
        return ""
    processor = sha256(manifest.cpu_fingerprint().encode()).hexdigest()[:8]
    return f"{engine.path}|{status.st_size}|{status.st_mtime_ns}|{processor}"


def _read() -> dict[str, dict[str, str]]:
    try:
        content = json.loads((paths.data_dir() / _FILE).read_text("utf-8"))
        engines = content["engines"] if content["table"] == _TABLE else {}
        return {str(key): {str(name): str(wrong) for name, wrong in each.items()} for key, each in engines.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def keep(engine: EngineBinary, found: dict[str, str]) -> None:
    """Store the results of an engine, in place of earlier ones. Raises nothing."""
    if own := key(engine):
        with contextlib.suppress(OSError):  # the check is repeated next time
            paths.data_dir().mkdir(parents=True, exist_ok=True)
            write_json(paths.data_dir() / _FILE, {"table": _TABLE, "engines": _read() | {own: found}})
