"""Train the demo model from scratch, with its weights ternary from the first step (quantization-aware training).

::

    python models/demo/train.py --minutes 40            # writes models/demo/build/
    python models/demo/train.py --minutes 40 --resume   # goes on after an interruption

The learning rate depends on the share of the time budget that has passed, not on a step count: the same command gives
a finished schedule on a fast and on a slow machine. The batches depend on the seed and the step only, so a resumed run
sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from corpus import conversation, sample_text
from model import BitNet, ModelShape
from tokenizer import ChatEncoder, Noise, load_tokenizer, train_tokenizer
from torch import Tensor

NOT_SAID = -100
WARMUP = 0.03
LONG_ROWS_FROM = 0.8  # share of the time after which the rows get long
DECAY_UNTIL = 0.6  # weight decay stops here: ternary signs should settle, not drift towards zero


@dataclass
class Batch:
    """Rows packed with whole conversations; attention does not cross from one to the next."""

    tokens: Tensor
    targets: Tensor
    said: Tensor
    mask: Tensor


def make_batch(encoder: ChatEncoder, rng: random.Random, rows: int, length: int, long: float) -> Batch:
    """``rows`` rows of ``length`` tokens; the last conversation of a row is cut where the row ends."""
    ids = torch.zeros(rows, length + 1, dtype=torch.long)
    said = torch.zeros(rows, length + 1, dtype=torch.bool)
    document = torch.zeros(rows, length + 1, dtype=torch.long)
    for row in range(rows):
        filled = number = 0
        while filled <= length:
            tokens, counts = encoder.encode(conversation(rng, long))
            take = min(len(tokens), length + 1 - filled)
            ids[row, filled : filled + take] = torch.tensor(tokens[:take])
            said[row, filled : filled + take] = torch.tensor(counts[:take])
            document[row, filled : filled + take] = number
            filled += take
            number += 1
    seen = document[:, :length]
    same = seen[:, :, None] == seen[:, None, :]
    allowed = torch.ones(length, length, dtype=torch.bool).tril() & same
    mask = torch.zeros(rows, 1, length, length, dtype=torch.bfloat16)
    mask.masked_fill_(~allowed[:, None], float("-inf"))
    return Batch(ids[:, :-1], ids[:, 1:], said[:, 1:], mask)


def said_positions(batch: Batch) -> tuple[Tensor, Tensor]:
    """Where the loss counts, and the tokens expected there.

    The number is rounded up with positions that do not count: the CPU kernels are compiled per shape, and a new shape
    in every step costs more than the padding.
    """
    chosen = batch.said.flatten().nonzero().squeeze(1)
    padding = -len(chosen) % 256
    answers = torch.cat((batch.targets.flatten()[chosen], torch.full((padding,), NOT_SAID)))
    return torch.cat((chosen, torch.zeros(padding, dtype=torch.long))), answers


def rate_factor(progress: float) -> float:
    """Linear warm-up, then a cosine down to a fiftieth."""
    if progress < WARMUP:
        return progress / WARMUP
    share = min(1.0, (progress - WARMUP) / (1 - WARMUP))
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo model.")
    parser.add_argument("--minutes", type=float, default=40.0, help="time budget (default 40)")
    parser.add_argument("--build", type=Path, default=Path(__file__).parent / "build", help="where results go")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens per step")
    parser.add_argument("--length", type=int, default=384, help="row length; the last part trains on 1024")
    parser.add_argument("--layers", type=int, default=ModelShape.layers)
    parser.add_argument("--dropout", type=float, default=0.1, help="until the rows get long")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all)")
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arguments.build.mkdir(parents=True, exist_ok=True)
    shape = ModelShape(layers=arguments.layers, dropout=arguments.dropout)
    vocabulary_file = arguments.build / "tokenizer.json"
    checkpoint_file = arguments.build / "checkpoint.pt"
    if not (arguments.resume and vocabulary_file.exists()):
        train_tokenizer(sample_text(20000, arguments.seed), shape.vocabulary).save(str(vocabulary_file))
    vocabulary = load_tokenizer(vocabulary_file)
    clean = ChatEncoder(vocabulary)

    network = BitNet(shape)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    matrices = [p for name, p in network.named_parameters() if p.dim() == 2 and "embd" not in name]
    others = [p for name, p in network.named_parameters() if p.dim() != 2 or "embd" in name]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
        lr=arguments.rate,
        betas=(0.9, 0.97),
    )
    step, spent, seen, average = 0, 0.0, 0, 0.0
    if arguments.resume and checkpoint_file.exists():
        state = torch.load(checkpoint_file, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent, seen, average = state["step"], state["spent"], state["seen"], state["loss"]
    print(f"{parameters} parameters, {arguments.minutes:g} minutes, from step {step}", flush=True)

    def save() -> None:
        state = {
            "network": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "shape": shape.as_dict(),
            "step": step,
            "spent": spent,
            "seen": seen,
            "loss": average,
        }
        partial = checkpoint_file.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(checkpoint_file)
        figures = {"parameters": parameters, "steps": step, "minutes": round(spent / 60, 1), "tokens": seen}
        figures["loss"] = round(average, 4)
        (arguments.build / "figures.json").write_text(json.dumps(figures) + "\n", encoding="utf-8")

    budget = arguments.minutes * 60
    before = time.monotonic()
    saved = spent
    while spent < budget:
        progress = spent / budget
        for group in optimizer.param_groups:
            group["lr"] = arguments.rate * rate_factor(progress)
        optimizer.param_groups[0]["weight_decay"] = 0.05 if progress < DECAY_UNTIL else 0.0
        late = progress > LONG_ROWS_FROM
        network.train(not late)  # the last part trains without noise, as the model will be used
        length = 1024 if late else arguments.length
        rng = random.Random(f"{arguments.seed}/{step}")
        noisy = ChatEncoder(vocabulary, Noise(vocabulary, rng))
        rows = max(1, arguments.tokens // length)
        batch = make_batch(clean if late else noisy, rng, rows, length, 0.4 if late else 0.15)
        chosen, answers = said_positions(batch)
        logits = network(batch.tokens, batch.mask, chosen, torch.bfloat16)
        loss = F.cross_entropy(logits, answers, ignore_index=NOT_SAID)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        step += 1
        seen += batch.tokens.numel()
        now = time.monotonic()
        spent += now - before
        before = now
        average = loss.item() if step == 1 else 0.97 * average + 0.03 * loss.item()
        if step % 20 == 0:
            print(f"step {step}  {spent / 60:5.1f} min  loss {average:.4f}  {seen / spent:.0f} tokens/s", flush=True)
        if spent - saved > 120:
            saved = spent
            save()
    save()
    print(f"done: {step} steps, loss {average:.4f}, {spent / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
