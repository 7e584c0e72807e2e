"""Known answers: what each small model says after some prompts, by a reference in float64 (``tests/bitnet_reference.py``).

Each token is ahead of all others by 0.4 standard deviations of the logits at least, where what engines round differently
(the activations in eight bits, mostly) moves a logit by 0.05. A model whose matrices count for nothing would repeat the
last letter of the prompt, a z.
"""

from __future__ import annotations

from bitnet_chat.engine.small_model import SmallModel

ANSWERS: dict[SmallModel, tuple[tuple[int, str], ...]] = {
    SmallModel("F32"): ((2, "fye"), (4, "Vai"), (10, "GzD"), (12, "aee")),
    SmallModel("F16"): ((2, "fye"), (4, "Vai"), (10, "GzD"), (12, "aee")),
    SmallModel("BF16"): ((2, "fye"), (4, "Vai"), (10, "GzD"), (12, "aee")),
    SmallModel("Q4_0"): ((0, "hnd"), (2, "gVo"), (6, "izi"), (9, "YVd")),
    SmallModel("Q4_1"): ((1, "qqc"), (18, "nLu"), (20, "PGk"), (21, "QDD")),
    SmallModel("Q5_0"): ((5, "rrr"), (6, "FJa"), (10, "PJO"), (11, "fJd")),
    SmallModel("Q5_1"): ((6, "vRn"), (11, "wAc"), (12, "YSF"), (29, "Rre")),
    SmallModel("Q8_0"): ((0, "WVc"), (8, "AaJ"), (9, "fBd"), (11, "god")),
    SmallModel("Q2_K"): ((2, "FNW"), (5, "UCQ"), (14, "NoC"), (21, "anu")),
    SmallModel("Q3_K"): ((1, "haa"), (2, "qDt"), (6, "Mir"), (10, "ejR")),
    SmallModel("Q4_K"): ((5, "cHc"), (10, "bYJ"), (12, "FKD"), (13, "WWW")),
    SmallModel("Q5_K"): ((0, "oSq"), (7, "uBP"), (10, "wZs"), (13, "vRg")),
    SmallModel("Q6_K"): ((8, "GZb"), (9, "dss"), (11, "NNN"), (12, "aVK")),
    SmallModel("IQ4_NL"): ((5, "GCd"), (10, "YYY"), (14, "ddd"), (18, "idi")),
    SmallModel("IQ4_XS"): ((6, "JJH"), (14, "mEp"), (18, "FyX"), (30, "fCH")),
    SmallModel("MXFP4"): ((4, "AAA"), (11, "NNN"), (30, "bbb"), (33, "MGr")),
    SmallModel("TQ1_0"): ((1, "Pdi"), (16, "ulG"), (17, "rrr"), (37, "Wsm")),
    SmallModel("TQ2_0"): ((1, "vVB"), (13, "iax"), (22, "yQn"), (25, "ZAC")),
    SmallModel("I2_S"): ((0, "WVu"), (4, "CCo"), (5, "UAx"), (15, "vIQ")),
    SmallModel("IQ2_BN"): ((2, "geU"), (9, "SVA"), (10, "qVd"), (12, "edV")),
    SmallModel("TQ2_0", "bitnet"): ((0, "avO"), (3, "sZG"), (6, "ufp"), (14, "Vxf")),
    SmallModel("IQ2_BN", "bitnet"): ((2, "tfe"), (3, "Ysh"), (7, "OZV"), (14, "jly")),
    SmallModel("I2_S", "bitnet"): ((1, "ddR"), (10, "nRY"), (11, "adJ"), (12, "jjj")),
    SmallModel("IQ2_BN", "bitnet-b1.58"): ((4, "ZUt"), (5, "luP"), (9, "FCB"), (10, "IaS")),
    SmallModel("I2_S", "bitnet-b1.58"): ((2, "jjQ"), (3, "dTZ"), (5, "fmE"), (8, "VQD")),
}
"""The numbers of prompts (:func:`bitnet_chat.engine.small_model.prompt`), and the letters that follow each."""
