"""Known answers: what each small model says after some prompts, by a reference in float64 (``tests/bitnet_reference.py``).

Each token is ahead of all others by 0.4 standard deviations of the logits at least, where what engines round differently
(the activations in eight bits, mostly) moves a logit by 0.05. A model whose matrices count for nothing would repeat the
last letter of the prompt, a z.
"""

from __future__ import annotations

from bitnet_chat.engine.small_model import SmallModel

ANSWERS: dict[SmallModel, tuple[tuple[int, str], ...]] = {
    SmallModel("F32"): ((4, "Qne"), (7, "NJI"), (29, "uko"), (32, "Wrz")),
    SmallModel("F16"): ((4, "Qne"), (7, "NJI"), (29, "uko"), (32, "Wrz")),
    SmallModel("BF16"): ((4, "Qne"), (7, "NJI"), (12, "hSR"), (29, "uko")),
    SmallModel("Q4_0"): ((0, "DDh"), (14, "UPh"), (15, "YFi"), (33, "nDD")),
    SmallModel("Q4_1"): ((0, "JJx"), (2, "Yin"), (3, "GzG"), (6, "qBx")),
    SmallModel("Q5_0"): ((1, "Rbt"), (2, "ElZ"), (4, "WcL"), (6, "tgY")),
    SmallModel("Q5_1"): ((0, "ZQT"), (3, "hzh"), (6, "KIB"), (10, "RXy")),
    SmallModel("Q8_0"): ((0, "OpC"), (2, "hFt"), (5, "fQk"), (11, "MLk")),
    SmallModel("Q2_K"): ((0, "mnV"), (1, "vuJ"), (11, "dMH"), (14, "Qes")),
    SmallModel("Q3_K"): ((5, "nHU"), (9, "DKO"), (13, "BAb"), (15, "jCn")),
    SmallModel("Q4_K"): ((12, "jjH"), (18, "FGn"), (19, "HDz"), (20, "Cuu")),
    SmallModel("Q5_K"): ((0, "vww"), (6, "PNy"), (11, "OoA"), (12, "lFV")),
    SmallModel("Q6_K"): ((3, "WEB"), (6, "EEE"), (11, "MVA"), (13, "sss")),
    SmallModel("IQ4_NL"): ((5, "Gzt"), (11, "QMg"), (16, "Fdd"), (18, "xQW")),
    SmallModel("IQ4_XS"): ((6, "cGq"), (10, "nTp"), (16, "fxq"), (27, "Ygu")),
    SmallModel("MXFP4"): ((0, "RRR"), (2, "OOO"), (3, "KKK"), (6, "pGG")),
    SmallModel("TQ1_0"): ((1, "XBN"), (11, "TOh"), (20, "xmN"), (28, "VaX")),
    SmallModel("TQ2_0"): ((0, "rrz"), (4, "hLL"), (6, "LLX"), (8, "mDD")),
    SmallModel("I2_S"): ((5, "RRR"), (8, "sgw"), (14, "QxQ"), (23, "YWW")),
    SmallModel("IQ2_BN"): ((1, "fOz"), (14, "SZr"), (17, "Iwf"), (18, "WvT")),
    SmallModel("TQ2_0", "bitnet"): ((0, "IJR"), (1, "YUv"), (11, "CsJ"), (14, "nEf")),
    SmallModel("IQ2_BN", "bitnet"): ((0, "aXU"), (4, "xmL"), (8, "PXX"), (11, "osM")),
    SmallModel("I2_S", "bitnet"): ((4, "vpD"), (9, "RUg"), (16, "whS"), (19, "HLw")),
    SmallModel("IQ2_BN", "bitnet-b1.58"): ((0, "aXw"), (12, "HIy"), (24, "Soe"), (33, "Kpl")),
    SmallModel("I2_S", "bitnet-b1.58"): ((2, "wUU"), (5, "RhQ"), (6, "Zrh"), (19, "HLw")),
}
"""The numbers of prompts (:func:`bitnet_chat.engine.small_model.prompt`), and the letters that follow each."""
