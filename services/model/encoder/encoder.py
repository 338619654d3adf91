"""Tokenise, run the graph on onnxruntime, and give back unit vectors."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from services.model.encoder.config import OPSET, BertConfig, tensor_names
from services.model.encoder.vectors import TooLong, Vectors

#: Tokens of one pass, padding included: keeps the attention scores inside the cache.
BATCH_TOKENS = 2048
GRAPH_VERSION = 1


@dataclass(frozen=True, slots=True)
class EncoderFiles:
    """A folder in Hugging Face's layout: config.json, model.safetensors, tokenizer.json."""

    folder: Path

    def check(self) -> None:
        """Raises FileNotFoundError naming the first file that is missing."""
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            if not (self.folder / name).is_file():
                raise FileNotFoundError(f"the encoder folder {self.folder.name} has no {name}")

    def config(self) -> BertConfig:
        """The architecture."""
        return BertConfig.from_json(json.loads((self.folder / "config.json").read_text()))

    def graph(self, cache: Path) -> Path:
        """The ONNX file for these weights, built once and kept in `cache` under their sha256."""
        digest = hashlib.sha256(f"{GRAPH_VERSION}.{OPSET}.".encode())
        for name in ("config.json", "model.safetensors"):
            with (self.folder / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        target = cache / f"{digest.hexdigest()}.onnx"
        if not target.is_file():
            self._write_graph(target)
        return target

    def _write_graph(self, target: Path) -> None:
        config = self.config()
        tensors = load_file(self.folder / "model.safetensors")
        missing = [name for name in tensor_names(config) if name not in tensors]
        if missing:
            raise ValueError(f"the weights lack {missing[0]} and {len(missing) - 1} more tensors")
        from services.model.encoder.graph import build_graph  # brings onnx, needed once for each model

        content = build_graph(tensors, config).SerializeToString()
        target.parent.mkdir(parents=True, exist_ok=True)
        # Written aside and renamed: another process never sees half a file.
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
            file.write(content)
        Path(file.name).replace(target)


class SentenceEncoder:
    """Thread safe. `dimensions` is the length of a vector, `limit` the tokens of the longest text."""

    def __init__(self, files: EncoderFiles, cache: Path, *, threads: int) -> None:
        files.check()
        config = files.config()
        self.dimensions = config.hidden_size
        self.limit = config.max_position_embeddings
        self._vocabulary = config.vocab_size
        self._tokenizer = Tokenizer.from_file(str(files.folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._start, self._end = self._special("[CLS]"), self._special("[SEP]")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Waiting threads sleep: the cores belong to the language model.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(files.graph(cache)), options, providers=["CPUExecutionProvider"]
        )

    def _special(self, token: str) -> int:
        identity = self._tokenizer.token_to_id(token)
        if identity is None:
            raise ValueError(f"the tokenizer has no {token} token")
        return int(identity)

    def tokenize(self, inputs: Sequence[str] | Sequence[Sequence[int]]) -> list[list[int]]:
        """Token ids of each input, with the marks of start and end.

        Raises:
            TooLong: an input exceeds the positions of the encoder.
            ValueError: a token id is outside the vocabulary.
        """
        texts = [item for item in inputs if isinstance(item, str)]
        if len(texts) == len(inputs):
            rows = [list(encoding.ids) for encoding in self._tokenizer.encode_batch(texts)]
        else:
            rows = [self._marked(item) for item in inputs if not isinstance(item, str)]
        for index, row in enumerate(rows):
            if len(row) > self.limit:
                raise TooLong(index, len(row), self.limit)
        return rows

    def _marked(self, tokens: Sequence[int]) -> list[int]:
        if any(not 0 <= token < self._vocabulary for token in tokens):
            raise ValueError(f"token ids must be between 0 and {self._vocabulary - 1}")
        return [self._start, *tokens, self._end]

    def batches(self, rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Indices of `rows` in groups of like length, so that little is padded."""
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]), reverse=True)
        while order:
            take = max(1, BATCH_TOKENS // max(1, len(rows[order[0]])))
            yield order[:take]
            del order[:take]

    def run(self, rows: Sequence[Sequence[int]]) -> Vectors:
        """Vectors of one batch of token rows: (len(rows), dimensions), unit length."""
        longest = max(len(row) for row in rows)
        ids = np.zeros((len(rows), longest), dtype=np.int64)
        mask = np.zeros_like(ids)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
            mask[index, : len(row)] = 1
        (vectors,) = self._session.run(["embedding"], {"input_ids": ids, "attention_mask": mask})
        result: Vectors = vectors
        return result

    def encode(self, inputs: Sequence[str] | Sequence[Sequence[int]]) -> tuple[Vectors, int]:
        """Vectors of all inputs, in their order, and the number of tokens read.

        Raises:
            TooLong, ValueError: see `tokenize`.
        """
        rows = self.tokenize(inputs)
        vectors = np.empty((len(rows), self.dimensions), dtype=np.float32)
        for group in self.batches(rows):
            vectors[group] = self.run([rows[index] for index in group])
        return vectors, sum(len(row) for row in rows)
