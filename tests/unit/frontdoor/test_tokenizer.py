"""Text to ids and back, on a byte-level and a byte-fallback vocabulary."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from services.core.errors import InvalidRequestError, ModelError
from services.frontdoor.tokenizer import Tokenizer
from tests.unit.frontdoor.vocabularies import byte_fallback_folder, byte_level_folder, write_json

TEXT = "he said: naïve é 🙂 日本 👩‍👧\n"
Pair = tuple[Tokenizer, tokenizers.Tokenizer]


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = byte_level_folder(tmp_path_factory.mktemp("level"))
    return Tokenizer(folder), tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def byte_fallback(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = byte_fallback_folder(tmp_path_factory.mktemp("fallback"))
    return Tokenizer(folder), tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def pieces_of(tokenizer: Tokenizer, ids: tuple[int, ...] | list[int]) -> list[str]:
    detokenizer = tokenizer.detokenizer()
    return [*(detokenizer.push([token_id]) for token_id in ids), detokenizer.flush()]


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
def test_text_comes_back_one_id_at_a_time_without_a_cut_character(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer, _ = request.getfixturevalue(kind)
    ids = tokenizer.encode(TEXT)
    pieces = pieces_of(tokenizer, ids)
    assert "".join(pieces) == TEXT
    assert "\ufffd" not in "".join(pieces)
    assert len(ids) > len(TEXT)  # so characters did span ids
    assert sum(not piece for piece in pieces) > 5  # and were held back


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
@given(text=st.text(max_size=40), cuts=st.lists(st.integers(0, 160), max_size=6))
def test_any_text_survives_any_cut_of_its_ids(kind: str, text: str, cuts: list[int], request) -> None:
    tokenizer, _ = request.getfixturevalue(kind)
    ids = tokenizer.encode(text)
    detokenizer = tokenizer.detokenizer()
    edges = [0, *sorted(min(cut, len(ids)) for cut in cuts), len(ids)]
    got = "".join(detokenizer.push(ids[a:b]) for a, b in itertools.pairwise(edges)) + detokenizer.flush()
    assert got == text


@given(ids=st.lists(st.integers(0, 270), max_size=40))
def test_any_ids_give_the_text_that_the_library_gives(ids: list[int], byte_level: Pair) -> None:
    """Unknown ids, special tokens and bytes that are no UTF-8 included."""
    tokenizer, reference = byte_level
    assert "".join(pieces_of(tokenizer, ids)) == reference.decode(ids, skip_special_tokens=True)


@given(ids=st.lists(st.one_of(st.integers(259, 263), st.integers(3 + 0x41, 3 + 0x5A)), max_size=20))
def test_byte_fallback_ids_give_the_text_that_the_library_gives(ids: list[int], byte_fallback: Pair) -> None:
    tokenizer, reference = byte_fallback
    assert "".join(pieces_of(tokenizer, ids)) == reference.decode(ids, skip_special_tokens=True)


def test_a_character_cut_by_the_end_of_the_output_is_one_replacement(byte_level: Pair) -> None:
    tokenizer, _ = byte_level
    ids = tokenizer.encode("🙂")
    assert pieces_of(tokenizer, ids[:2]) == ["", "", "\ufffd"]


def test_the_template_adds_its_system_turn_and_opens_the_answer(byte_level: Pair) -> None:
    tokenizer, _ = byte_level
    text = tokenizer.render([{"role": "user", "content": "Hi"}])
    assert text == ("<|im_start|>system\nBe helpful<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    ids = tokenizer.encode_chat([{"role": "user", "content": "Hi"}])
    assert ids.count(1) == 3  # <|im_start|> is one id, not its letters
    assert tokenizer.render([{"role": "system", "content": "Be brief"}]).count("system") == 1


def test_a_template_file_wins_over_the_settings(tmp_path: Path) -> None:
    byte_level_folder(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0]['content'] }}!{{ eos_token }}", encoding="utf-8")
    assert Tokenizer(tmp_path).render([{"role": "user", "content": "Hi"}]) == "Hi!<|im_end|>"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "messages: .* roles must alternate"),
        ("{{ messages.__class__.__base__.__subclasses__() }}", "messages: .*unsafe"),
        ("{{ nothing.at.all }}", "messages: .*undefined"),
        (None, "no chat template; send `prompt`"),
    ],
)
def test_a_template_that_refuses_is_the_clients_error(tmp_path: Path, template: str | None, message: str) -> None:
    tokenizer = Tokenizer(byte_level_folder(tmp_path, template))
    with pytest.raises(InvalidRequestError, match=message):
        tokenizer.render([{"role": "user", "content": "Hi"}])


def test_the_end_token_is_the_one_that_the_settings_name(tmp_path: Path) -> None:
    assert Tokenizer(byte_level_folder(tmp_path)).eos_token_id == 2
    write_json(tmp_path / "tokenizer_config.json", {"eos_token": {"content": "<|endoftext|>"}})
    assert Tokenizer(tmp_path).eos_token_id == 0
    (tmp_path / "tokenizer_config.json").unlink()
    assert Tokenizer(tmp_path).eos_token_id is None


def spoil_nothing(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def spoil_json(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{", encoding="utf-8")


def spoil_shape(folder: Path) -> None:
    write_json(folder / "tokenizer.json", {"version": "1.0"})


def spoil_list(folder: Path) -> None:
    write_json(folder / "tokenizer_config.json", [1])


def spoil_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% for %}", encoding="utf-8")


def spoil_decoder(folder: Path) -> None:
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.decoder = tokenizers.decoders.WordPiece()
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_nothing, "tokenizer.json: no such file"),
        (spoil_json, "tokenizer.json: not JSON"),
        (spoil_shape, "tokenizer.json: .*use a tokenizer.json"),
        (spoil_list, "tokenizer_config.json: a JSON object is needed, found list"),
        (spoil_template, "chat template is not valid Jinja"),
        (spoil_decoder, "tokenizer.json: decoder .*WordPiece.* is not known"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_bad_folder_is_named(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(byte_level_folder(tmp_path))
    with pytest.raises(ModelError, match=message):
        Tokenizer(tmp_path)
