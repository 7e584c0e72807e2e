"""Chat templates of twelve families, as their models bring them, and the special tokens that they are made of."""

from __future__ import annotations

import re

from bitnet_chat.templates.builtin import TEMPLATES

# name: source, BOS token, end-of-sequence token, whether the engine adds the BOS token
FAMILIES = {
    "chatml": (TEMPLATES["chatml"], "<|im_start|>", "<|im_end|>", False),
    "chatml with a system prompt of its own": (
        "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n"
        "{% endif %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        *("<|im_start|>", "<|im_end|>", False),
    ),
    "bitnet": (TEMPLATES["bitnet"], "<|begin_of_text|>", "<|eot_id|>", True),
    "llama3": (
        "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
        "{{ m.content | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        *("<|begin_of_text|>", "<|eot_id|>", True),
    ),
    "llama2": (
        "{% if messages[0].role == 'system' %}{% set turns = messages[1:] %}{% set system = messages[0].content %}"
        "{% else %}{% set turns = messages %}{% set system = '' %}{% endif %}{% for m in turns %}"
        "{% if loop.first and system %}{% set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + m.content %}"
        "{% else %}{% set content = m.content %}{% endif %}"
        "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
        *("<s>", "</s>", True),
    ),
    "mistral": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] "
        "{% if loop.index0 == 1 and messages[0].role == 'system' %}{{ messages[0].content }}\n\n{% endif %}"
        "{{ m.content }} [/INST]{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
        *("<s>", "</s>", True),
    ),
    "gemma": (TEMPLATES["gemma"], "<bos>", "<end_of_turn>", True),
    "phi3": (
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
        *("<s>", "<|end|>", True),
    ),
    "zephyr": (TEMPLATES["zephyr"], "<s>", "</s>", True),
    "vicuna": (
        "{% for m in messages %}{% if m.role == 'system' %}{{ m.content + ' ' }}{% elif m.role == 'user' %}"
        "{{ 'USER: ' + m.content + ' ' }}{% else %}{{ 'ASSISTANT: ' + m.content + eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}",
        *("<s>", "</s>", True),
    ),
    "deepseek": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}"
        "{{ '<｜User｜>' + m.content }}{% else %}"
        "{{ '<｜Assistant｜>' + m.content.split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}",
        *("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", True),
    ),
    "plain": (TEMPLATES["plain"], "<s>", "</s>", True),
}
SPECIAL = re.compile(
    r"<\|(?:im_start|im_end|begin_of_text|eot_id|start_header_id|end_header_id|end|user|assistant|system)\|>|<s>|</s>"
    r"|<bos>|<(?:start|end)_of_turn>|<｜(?:User|Assistant|begin▁of▁sentence|end▁of▁sentence)｜>"
)
TOKENS = frozenset(
    [
        *("<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
        *("<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "<s>", "</s>"),
        *("<bos>", "<start_of_turn>", "<end_of_turn>"),
        *("<｜User｜>", "<｜Assistant｜>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    ]
)
