"""Known answers: how each small model begins its replies to some questions.

Computed by a reference in float64 (``tests/bitnet_reference.py``, which prints this table). Each token is ahead of all
others by 0.4 standard deviations of the logits at least, where what engines round differently (the activations in eight
bits, mostly) moves a logit by 0.05. All prompts end in the same tokens and the replies differ, so that a model whose
matrices count for nothing cannot be right.
"""

from __future__ import annotations

from bitnet_chat.engine.small_model import SmallModel

LENGTH = 3

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
    SmallModel("IQ2_BN"): ((1, "vWN"), (9, "rhh"), (11, "WWW"), (15, "utZ")),
    SmallModel("TQ2_0", "bitnet"): ((5, "pRx"), (8, "iNE"), (10, "LLL"), (14, "IAA")),
    SmallModel("IQ2_BN", "bitnet"): ((2, "KsF"), (4, "uIM"), (17, "Suu"), (18, "rdK")),
    SmallModel("I2_S", "bitnet"): ((2, "jqn"), (4, "ZZZ"), (6, "RJG"), (9, "QtB")),
    SmallModel("IQ2_BN", "bitnet-b1.58"): ((2, "Ksy"), (5, "oEc"), (18, "rdK"), (19, "mDf")),
    SmallModel("I2_S", "bitnet-b1.58"): ((3, "ajo"), (4, "ZEE"), (5, "qGw"), (6, "udj")),
}
"""The numbers of questions (:func:`bitnet_chat.engine.small_model.question`), and the first letters of each reply."""
