"""The encoder against an implementation of its own in NumPy, and against published figures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file

from services.model.encoder.config import BertConfig
from services.model.encoder.encoder import EncoderFiles, SentenceEncoder
from services.model.encoder.graph import build_graph
from services.model.encoder.vectors import TooLong, shorten
from services.model.engines.encoder import packaged_encoder
from tests.unit.model.tiny_encoder import tiny_encoder

Array = npt.NDArray[np.float64]

# From the library's documentation page "Usage", with the same model.
PUBLISHED = {
    ("The weather is lovely today.", "It's so sunny outside!"): 0.6660,
    ("The weather is lovely today.", "He drove to the stadium."): 0.1046,
    ("It's so sunny outside!", "He drove to the stadium."): 0.1411,
}
TEXTS = [
    "This is an example sentence",
    "Each sentence is converted",
    "Ein Satz mit Umlauten: ä ö ü, and an emoji \N{GRINNING FACE}",
    "x",
    "word " * 200,
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> SentenceEncoder:
    return SentenceEncoder(EncoderFiles(packaged_encoder()), tmp_path_factory.mktemp("graphs"), threads=1)


class ReferenceEncoder:
    """BERT written down from the paper in float64, one text at a time, without padding."""

    def __init__(self, folder: Path) -> None:
        self.weights = {
            name: tensor.astype(np.float64)
            for name, tensor in load_file(folder / "model.safetensors").items()
        }
        self.config = json.loads((folder / "config.json").read_text())

    def encode(self, tokens: list[int]) -> Array:
        hidden = self.weights["embeddings.word_embeddings.weight"][tokens]
        hidden = hidden + self.weights["embeddings.position_embeddings.weight"][: len(tokens)]
        hidden = hidden + self.weights["embeddings.token_type_embeddings.weight"][0]
        hidden = self.norm("embeddings.LayerNorm", hidden)
        for layer in range(self.config["num_hidden_layers"]):
            hidden = self.layer(f"encoder.layer.{layer}", hidden)
        pooled: Array = hidden.mean(axis=0)
        return pooled / np.linalg.norm(pooled)

    def layer(self, name: str, hidden: Array) -> Array:
        heads = self.config["num_attention_heads"]
        size = hidden.shape[1] // heads
        query, key, value = (
            self.linear(f"{name}.attention.self.{part}", hidden).reshape(-1, heads, size)
            for part in ("query", "key", "value")
        )
        mixed = np.empty_like(query)
        for head in range(heads):
            scores = query[:, head] @ key[:, head].T / math.sqrt(size)
            shares = np.exp(scores - scores.max(axis=1, keepdims=True))
            mixed[:, head] = shares / shares.sum(axis=1, keepdims=True) @ value[:, head]
        attended = self.linear(f"{name}.attention.output.dense", mixed.reshape(hidden.shape))
        middle = self.norm(f"{name}.attention.output.LayerNorm", hidden + attended)
        wide = self.linear(f"{name}.intermediate.dense", middle)
        wide = wide * 0.5 * (1 + np.vectorize(math.erf)(wide / math.sqrt(2)))
        return self.norm(f"{name}.output.LayerNorm", middle + self.linear(f"{name}.output.dense", wide))

    def linear(self, name: str, hidden: Array) -> Array:
        product: Array = hidden @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]
        return product

    def norm(self, name: str, hidden: Array) -> Array:
        centred = hidden - hidden.mean(axis=-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + self.config["layer_norm_eps"])
        result: Array = centred / deviation * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]
        return result


def test_published_similarities(encoder: SentenceEncoder) -> None:
    for (first, second), published in PUBLISHED.items():
        vectors, _ = encoder.encode([first, second])
        assert float(vectors[0] @ vectors[1]) == pytest.approx(published, abs=5e-5)


def test_agrees_with_the_reference(encoder: SentenceEncoder) -> None:
    reference = ReferenceEncoder(packaged_encoder())
    vectors, tokens = encoder.encode(TEXTS)
    rows = encoder.tokenize(TEXTS)
    assert tokens == sum(len(row) for row in rows)
    for row, vector in zip(rows, vectors, strict=True):
        assert np.allclose(reference.encode(row), vector, atol=2e-5)


def test_neighbours_in_a_batch_change_nothing(encoder: SentenceEncoder) -> None:
    together, _ = encoder.encode(TEXTS)
    alone = np.concatenate([encoder.encode([text])[0] for text in TEXTS])
    assert np.allclose(together, alone, atol=1e-5)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


def test_batches_cover_every_row_once_and_stay_small(encoder: SentenceEncoder) -> None:
    rows = [[1] * (1 + 37 * index % 500) for index in range(300)]
    groups = list(encoder.batches(rows))
    assert sorted(index for group in groups for index in group) == list(range(300))
    for group in groups:
        assert len(group) == 1 or len(group) * max(len(rows[index]) for index in group) <= 2048


def test_token_ids_give_the_same_as_their_text(encoder: SentenceEncoder) -> None:
    ids = encoder.tokenize(["a lovely day"])[0][1:-1]
    by_ids, _ = encoder.encode([ids])
    by_text, _ = encoder.encode(["a lovely day"])
    assert np.array_equal(by_ids, by_text)
    with pytest.raises(ValueError, match="between 0 and 30521"):
        encoder.encode([[30522]])


def test_a_long_text_is_refused_not_cut(encoder: SentenceEncoder) -> None:
    with pytest.raises(TooLong) as refusal:
        encoder.encode(["short", "word " * 600])
    assert (refusal.value.index, refusal.value.tokens, refusal.value.limit) == (1, 602, 512)


def test_shorter_vectors_have_unit_length(encoder: SentenceEncoder) -> None:
    vectors, _ = encoder.encode(["one", "two"])
    short = shorten(vectors, 64)
    assert short.shape == (2, 64)
    assert np.allclose(np.linalg.norm(short, axis=1), 1, atol=1e-6)
    assert np.allclose(short[0] / short[0][0], vectors[0][:64] / vectors[0][0], atol=1e-4)


def test_the_graph_is_built_once_for_each_set_of_weights(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = tiny_encoder(tmp_path / "one").graph(cache)
    written = first.stat().st_mtime_ns
    assert tiny_encoder(tmp_path / "one").graph(cache) == first
    assert first.stat().st_mtime_ns == written
    assert tiny_encoder(tmp_path / "two", seed=1).graph(cache) != first
    assert len(list(cache.iterdir())) == 2


def test_other_architectures_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only BERT"):
        tiny_encoder(tmp_path / "roberta", model_type="roberta").graph(tmp_path / "cache")
    files = tiny_encoder(tmp_path / "broken")
    (files.folder / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"broken has no tokenizer\.json"):
        SentenceEncoder(files, tmp_path / "cache", threads=1)
    with pytest.raises(KeyError):
        build_graph({}, BertConfig(8, 1, 2, 1e-12, 12, 10))
    config = json.loads((files.folder / "config.json").read_text()) | {"num_hidden_layers": 2}
    (files.folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"the weights lack encoder\.layer\.1"):
        files.graph(tmp_path / "cache")
