#!/usr/bin/env python3
"""A native child for faults and timing: it speaks the protocol, and does what the message says; see ``answer``.

Each start and each request is a line in the file that ``SCRIPTED_CHILD_RECORD`` names. One token is one character of a
prompt, and one word of a reply. The window has ``SCRIPTED_CHILD_SIZE`` tokens.
"""

import json
import os
import signal
import sys
import threading
import time

# ruff: noqa: PTH123 -- a test starts many of these; what is not imported is not waited for

SIZE = int(os.environ.get("SCRIPTED_CHILD_SIZE", "2000"))


def tell(kind: str, **fields: object) -> None:
    os.write(1, json.dumps({"kind": kind, **fields}).encode() + b"\n")


def record(**fields: object) -> None:
    with open(os.environ["SCRIPTED_CHILD_RECORD"], "a") as file:
        file.write(json.dumps({"pid": os.getpid(), **fields}) + "\n")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def keep(request: dict) -> None:
    """Save or restore a context, of which nothing depends here."""
    folder = sys.argv[sys.argv.index("--state-folder") + 1]
    try:
        with open(f"{folder}/{request['file']}", "wb" if request["kind"] == "save" else "rb") as file:
            file.write(b"context") if request["kind"] == "save" else file.read()
    except OSError as error:
        tell("failed", id=request["id"], why="failed", what=str(error))
    else:
        tell(f"{request['kind']}d", id=request["id"], tokens=7)


class Reply(threading.Thread):
    def __init__(self, request: dict) -> None:
        super().__init__(daemon=True)
        self.request, self.id = request, request["id"]
        self.stopped = threading.Event()
        self.words = 0
        self.prompt = "".join(text for text, _ in request["prompt"])

    def run(self) -> None:
        size = len(self.prompt)
        if size > SIZE:
            tell("failed", id=self.id, why="context_full", what=f"the prompt has {size} tokens, the window {SIZE}")
            return
        if self.request["max_tokens"] == 0:
            done = not os.environ.get("SCRIPTED_CHILD_READS") or self.stopped.wait()
            tell("ended", id=self.id, reason="interrupted" if self.stopped.is_set() and done else "length")
            return
        plain = [text for text, special in self.request["prompt"] if not special and text.strip()]
        reason = self.answer(plain[-2].partition("\n")[2] if len(plain) > 1 else "")
        if reason:
            figures = {"prompt_tokens": size, "prompt_size": size, "tokens": self.words, "context_used": size}
            tell("ended", id=self.id, reason=reason, **figures)

    def say(self, text: str) -> str:
        """Word by word, as far as the limits go."""
        limit = self.request["max_tokens"]
        for number, word in enumerate(text.split(" ")):
            if self.stopped.is_set():
                return "interrupted"
            if limit is not None and self.words >= limit:
                return "length"
            if len(self.prompt) + self.words >= SIZE:
                return "context_full"
            self.words += 1
            tell("token", id=self.id, text=" " * (number > 0) + word, tokens=[number])
        return "stop"

    def answer(self, message: str) -> str:
        verb, _, rest = message.partition(" ")
        if verb == "variant":  # variant N …: something else for one of several replies
            number, _, other = rest.partition(" ")
            return self.answer(other) if self.request.get("number") == int(number) else self.say("the others")
        if verb == "story":
            while (reason := self.say(" ".join(f"word{number}" for number in range(50)))) == "stop":
                self.stopped.wait(0.03)  # time to read the words, and to stop
            return reason
        if verb == "wait":  # until it is stopped
            self.say(rest)
            self.stopped.wait()
            return "interrupted"
        if verb == "read":  # read DONE …: and then nothing, until it is stopped
            done = int(rest.partition(" ")[0])
            tell("prefill", id=self.id, done=0, total=done * 2, cached=0)
            tell("prefill", id=self.id, done=done, total=done * 2, cached=0)
            self.stopped.wait()
            return "interrupted"
        if verb == "kill":
            self.say(rest)
            die()
        if verb == "once":
            self.say(rest)
            with open(os.environ["SCRIPTED_CHILD_RECORD"]) as file:
                starts = [line for line in file if '"argv"' in line]
            if len(starts) == 1:
                die()
            return self.say(" survived")
        if verb == "hang":  # and hears nothing any more
            self.say(rest)
            time.sleep(600)
        if verb == "line":
            os.write(1, rest.encode() + b"\n")
            time.sleep(600)
        if verb == "fail":
            why, _, what = rest.partition(" ")
            tell("failed", id=self.id, why=why, what=what)
            return ""
        if verb == "bytes":
            tell("token", id=self.id, text=bytes.fromhex(rest).decode("utf-8", "surrogateescape"), tokens=[1])
            return "stop"
        if verb == "think":
            return self.say(f"<think> {rest} </think> thought")
        if verb == "Summarise":
            return self.say("they talked")
        return self.say(rest if verb == "say" else f"you said: {message}")


def main() -> None:
    record(argv=sys.argv[1:])
    if why := os.environ.get("SCRIPTED_CHILD_REFUSES"):
        kind, _, what = why.partition(" ")
        tell("failed", id=None, why=kind, what=what)
        sys.exit(1)
    tell("loading", done=0.5)
    tell("ready", library="scripted", version="1", context_size=SIZE, sequences=1, can=["schema"])
    replies: dict[int, Reply] = {}
    for line in sys.stdin.buffer:
        request = json.loads(line)
        record(request=request)
        if request["kind"] == "stop":
            reply = replies.get(request["id"])
            if reply is not None:
                reply.stopped.set()
        elif request["kind"] in ("save", "restore"):
            keep(request)
        else:
            ids = [request["id"] + number for number in range(request.get("count", 1))]
            if len(ids) > 1 and os.environ.get("SCRIPTED_CHILD_SINGLE"):
                for id in ids:
                    tell("failed", id=id, why="unsupported", what="one at a time")
                continue
            replies |= {id: Reply({**request, "id": id, "number": number}) for number, id in enumerate(ids)}
            for id in ids:
                replies[id].start()
    os._exit(0)


if __name__ == "__main__":
    main()
