"""Chat templates with all that published models' templates use, against the transformers library."""

import warnings
from datetime import datetime
from pathlib import Path

import pytest

from services.core.clock import VirtualClock
from services.core.errors import InvalidRequestError
from services.frontdoor.chat_template import ChatTemplate
from services.frontdoor.tokenizer import Tokenizer
from tests.unit.frontdoor.vocabularies import byte_level_folder, write_json

TURNS = "{% for m in messages %}[{{ m.role }}] {{ m['content'] | trim }}\n{% endfor %}"
TEMPLATES = {
    "defined": "{{ tools is defined }} {{ tools is none }} {{ documents is defined }} {{ documents is not none }}",
    "tools": "{% if not tools is defined %}A{% elif tools is not none %}B{% else %}C{% endif %}" + TURNS,
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}\n  {% generation %}\n{{ m.content }}<|im_end|>"
    "{% endgeneration %}\n{% else %}{{ m.content }}{% endif %}{% endfor %}|",
    "scope": "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
    "json": "{{ {'b': '<é>', 'a': [1]} | tojson }}{{ {'b': 'é', 'a': 1} | tojson(indent=2, sort_keys=true) }}"
    "{{ messages | tojson(ensure_ascii=true, separators=(',', ':')) }}",
    "loops": "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{% if loop.first %}{% continue %}"
    "{% endif %}{{ m.content }}{% endfor %}",
    "namespace": "{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{{ ns.last }}{{ messages[::-1][0].content.split()[-1] }}",
    "macro": "{% macro turn(m) %}<{{ m.role }}>{{ m.content }}{% endmacro %}\n"
    "{%- for m in messages -%}\n  {{ turn(m) }}\n"
    "{%- endfor %}{% if add_generation_prompt %}{{ bos_token }}{{ eos_token }}{% endif %}",
    "content": "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{{ m.content[0].text }}"
    "{% endif %}{% if m.tool_calls is defined or m.name %}!{% endif %}{% endfor %}",
    "names": "{{ bos_token }}|{{ eos_token }}|{{ unk_token }}|{{ pad_token }}|{{ sep_token }}|{{ cls_token }}",
}
CHAT = [
    {"role": "system", "content": " Be <brief>. "},
    {"role": "user", "content": "Hé\n\nthere"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "2 + 2"},
]
NAMES = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "sep_token": "<sep>"}


@pytest.mark.parametrize("name", list(TEMPLATES))
def test_a_conversation_reads_as_with_transformers(tmp_path: Path, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.utils.chat_template_utils import render_jinja_template

    ours = ChatTemplate(tmp_path, {"chat_template": TEMPLATES[name]}, NAMES, VirtualClock())
    for chat in (CHAT, CHAT[1:2], CHAT[:2]):
        theirs, _ = render_jinja_template([chat], chat_template=TEMPLATES[name], add_generation_prompt=True, **NAMES)
        assert ours.render(chat) == theirs[0]


def test_the_date_is_the_clocks(tmp_path: Path) -> None:
    settings = {"chat_template": "{{ strftime_now('%d %b %Y %H:%M') }}"}
    clock = VirtualClock(unix_start_ms=1_700_000_000_000)
    local = datetime.fromtimestamp(1_700_000_000).strftime("%d %b %Y %H:%M")
    assert ChatTemplate(tmp_path, settings, {}, clock).render(CHAT) == local


def test_a_template_that_adds_what_is_no_text_is_the_clients_error(tmp_path: Path) -> None:
    template = ChatTemplate(tmp_path, {"chat_template": "{{ messages[0].content + 1 }}"}, {}, VirtualClock())
    with pytest.raises(InvalidRequestError, match="the model's chat template refuses them"):
        template.render(CHAT)


def test_names_of_special_tokens_in_a_file_of_their_own_count(tmp_path: Path) -> None:
    folder = byte_level_folder(tmp_path, TEMPLATES["names"])
    write_json(folder / "special_tokens_map.json", {"bos_token": {"content": "<|im_start|>"}, "sep_token": "<|sep|>"})
    assert Tokenizer(folder).render(CHAT) == "<|im_start|>|<|im_end|>|||<|sep|>|"
    settings = {"eos_token": "<|im_end|>", "chat_template": TEMPLATES["names"], "added_tokens_decoder": {}}
    write_json(folder / "tokenizer_config.json", settings)
    assert Tokenizer(folder).render(CHAT) == "|<|im_end|>||||"
