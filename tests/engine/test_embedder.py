"""The embedder against transformers, and the whole cache on real embeddings."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from services.core.config import parse
from services.core.request import FinishReason
from services.core.seeds import stream
from services.semcache.ann import FlatVectors
from services.semcache.cache import Hit, SemanticCache
from services.semcache.category import CategoryHead
from services.semcache.config import SemcacheConfig
from services.semcache.embedder import MiniLm, bundled_embedder
from services.semcache.exemplars import EXEMPLARS
from services.semcache.gate import Answer, Asked
from services.semcache.key import Origin, make_key

ASKED = "What is the capital of Peru?"
SAME = ("What's the capital city of Peru?", "Name the capital of Peru.")
OTHER = ("What is the capital of Chile?", "What is the capital of Peru not?", "Who is the president of Peru?")


@pytest.fixture(scope="module")
def embedder() -> MiniLm:
    return MiniLm(bundled_embedder())


def test_vectors_are_those_of_transformers(embedder: MiniLm) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    exact = MiniLm(bundled_embedder(), quantised=False)
    model = AutoModel.from_pretrained(bundled_embedder()).eval()
    tokenizer = AutoTokenizer.from_pretrained(bundled_embedder())
    for text in (ASKED, "Ça va? 你好 🙂", "word " * 200):
        tokens = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            pooled = model(**tokens).last_hidden_state[0].mean(0)
        wanted = (pooled / pooled.norm()).numpy()
        assert embedder.count_tokens(text) == tokens.input_ids.shape[1]
        np.testing.assert_allclose(exact.embed(text), wanted, atol=2e-6)
        assert embedder.embed(text) @ wanted > 0.985, "integers cost little"
        assert np.linalg.norm(embedder.embed(text)) == pytest.approx(1.0, abs=1e-5)


def test_a_vector_does_not_depend_on_its_neighbours(embedder: MiniLm) -> None:
    for text, vector in zip((ASKED, *SAME), embedder.embed_all((ASKED, *SAME)), strict=True):
        np.testing.assert_array_equal(vector, embedder.embed(text))


def test_the_whole_cache_on_real_embeddings(embedder: MiniLm) -> None:
    cache = SemanticCache(parse(SemcacheConfig, {}), lambda: FlatVectors(embedder.dim), stream(1, "cache"))

    def asked(text: str) -> Asked:
        key = make_key(Origin(b"scope", b"model"), {}, [{"role": "user", "content": text}])
        return Asked(key, cache.policies.policy(("knowledge",)), question_tokens=embedder.count_tokens(text))

    assert cache.keep(0, asked(ASKED), Answer((7, 2), FinishReason.STOP), embedder.embed(ASKED)) == ""
    for text in SAME:
        assert isinstance(cache.find_alike(0, asked(text), embedder.embed(text)), Hit), text
    for text in OTHER:
        assert not isinstance(cache.find_alike(0, asked(text), embedder.embed(text)), Hit), text
    cache.check()


def test_categories_by_embedding(embedder: MiniLm) -> None:
    """Each exemplar left out in turn would be the honest measure; this holds what a newcomer would try first."""
    examples = {name: np.stack([embedder.embed(text) for text in texts]) for name, texts in EXEMPLARS.items()}
    head = CategoryHead(examples, min_margin=0.12)
    tried = {
        "knowledge": ("Who discovered penicillin?", "What is the longest river of Europe?"),
        "code": ("How do I parse JSON in Go?", "Why does my SQL query return duplicates?"),
        "faq": ("Can I return an item without its box?", "Which cards can I pay with?"),
        "health": ("What are the symptoms of measles?", "How is a fever treated?"),
    }
    right = Counter(
        name in head.classify(embedder.embed(text)).categories for name, texts in tried.items() for text in texts
    )
    assert right[True] >= 6, right
    assert head.classify(embedder.embed("asdf qwer zxcv")).source in ("nothing", "embedding")
