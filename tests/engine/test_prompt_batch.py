"""Where the batch size of a prompt is set: by what builds for CPUs and GPUs print, and by the user's flags."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from engine_scripts import no_engines, program

from bitnet_chat.backends.local_engine import LocalEngineBackend
from bitnet_chat.config import Settings
from bitnet_chat.conversation import Conversation
from bitnet_chat.engine.binary import EngineBinary
from bitnet_chat.engine.probe import probe
from bitnet_chat.engine.prompt_batch import gpus_in, sets_batch_size

__all__ = ["no_engines"]
OPTIONS = Path(__file__).parents[1] / "data" / "options"
CUDA = """load_backend: loaded CPU backend from /usr/lib/libggml-cpu-haswell.so
Available devices:
  CUDA0: NVIDIA GeForce RTX 3080 Ti (11909 MiB, 11650 MiB free)
ggml_cuda_init: found 1 CUDA devices (Total VRAM: 11909 MiB):
  Device 0: NVIDIA GeForce RTX 3080 Ti, compute capability 8.6, VMM: yes, VRAM: 11909 MiB
"""
METAL = """ggml_metal_device_init: GPU name:   Apple M4 Max
Available devices:
  MTL0: Apple M4 Max (98304 MiB, 98303 MiB free)
  BLAS: Accelerate (0 MiB, 0 MiB free)
"""
VULKAN = """ggml_vulkan: 0 = AMD Radeon(TM) 860M Graphics (AMD proprietary driver) | uma: 1 | fp16: 1 | warp size: 64
Available devices:
  Vulkan0: AMD Radeon(TM) 860M Graphics (16384 MiB, 15136 MiB free)
"""


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        (CUDA, ("CUDA0",)),
        (METAL, ("MTL0",)),
        (VULKAN, ("Vulkan0",)),
        ("Available devices:\n  BLAS: OpenBLAS (0 MiB, 0 MiB free)\n", ()),
        ("Available devices:\n  (none)\n", ()),
        ("Available devices:\n", ()),
        ("error: invalid argument: --list-devices\n", None),
    ],
)
def test_the_gpus_of_an_engine(text: str, gpus: tuple[str, ...] | None) -> None:
    assert gpus_in(text) == gpus


@pytest.mark.parametrize(
    ("gpus", "flags", "environment", "platform", "sets"),
    [
        ((), "", {}, "linux", True),
        ((), "", {}, "darwin", True),
        ((), "-ngl 99", {}, "linux", True),
        (("CUDA0",), "", {}, "linux", False),
        (("CUDA0",), "-ngl 0", {}, "linux", False),
        (("CUDA0",), "--device none", {}, "linux", True),
        (("MTL0",), "", {"LLAMA_ARG_DEVICE": "none"}, "darwin", True),
        (None, "", {}, "linux", True),
        (None, "", {}, "win32", True),
        (None, "", {}, "darwin", False),
        (None, "-dev none", {}, "darwin", True),
        (None, "-ngl 0", {}, "linux", True),
        (None, "--gpu-layers 20", {}, "linux", False),
        (None, "--n-gpu-layers all", {}, "linux", False),
        (None, "", {"LLAMA_ARG_N_GPU_LAYERS": "99"}, "linux", False),
        ((), "-b 512", {}, "linux", False),
        ((), "--batch-size 512 -x", {}, "linux", False),
        ((), "-fa on -ub 512", {}, "linux", False),
        ((), "--ubatch-size 512", {}, "linux", False),
        ((), "", {"LLAMA_ARG_BATCH": "64"}, "linux", False),
        ((), "", {"llama_arg_ubatch": "64"}, "win32", False),
    ],
)
def test_the_size_is_set_for_a_cpu_unless_the_user_has_chosen_one(
    gpus: tuple[str, ...] | None, flags: str, environment: dict[str, str], platform: str, sets: bool
) -> None:
    assert sets_batch_size(gpus, flags.split(), environment, platform) == sets


@pytest.mark.skipif(sys.platform == "win32", reason="programs are shell scripts here")
@pytest.mark.usefixtures("no_engines")
@pytest.mark.parametrize(("devices", "sets"), [(CUDA, False), ("Available devices:\n", True)])
def test_an_engine_is_asked_for_its_devices_once(tmp_path: Path, model: Path, devices: str, sets: bool) -> None:
    (tmp_path / "devices").write_text(devices)
    script = f'[ "$1" = --list-devices ] && cat {tmp_path / "devices"} && exit'
    path = program(tmp_path / "llama-cli", (OPTIONS / "llama.cpp-2026-llama-cli.txt").read_text("utf-8"), script)
    assert probe(path).gpus == gpus_in(devices)
    settings = Settings(engine=str(path), model=str(model))
    argv = LocalEngineBackend(settings).protocol().launch(Conversation().with_user("Hello")).argv
    assert ("--batch-size" in argv) == sets


def test_a_build_for_the_cpu_has_none(modern: EngineBinary) -> None:
    assert modern.gpus == ()
