"""The shape of a BERT encoder: what its `config.json` says, and which tensors it needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

#: The version of ONNX's operators that graphs are written in.
OPSET = 20


@dataclass(frozen=True, slots=True)
class BertConfig:
    """The part of `config.json` that shapes the graph."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    layer_norm_eps: float
    max_position_embeddings: int
    vocab_size: int

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> BertConfig:
        """Read a `config.json`.

        Raises:
            ValueError: it describes another architecture than the one built here.
        """
        if config.get("model_type") != "bert" or config.get("hidden_act") != "gelu":
            raise ValueError("only BERT encoders with GELU are supported")
        if config.get("position_embedding_type", "absolute") != "absolute":
            raise ValueError("only absolute position embeddings are supported")
        return cls(**{name: config[name] for name in cls.__dataclass_fields__})


def tensor_names(config: BertConfig) -> Iterator[str]:
    """The tensors `build_graph` reads."""
    for name in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
        yield f"embeddings.{name}.weight"
    modules = ["embeddings.LayerNorm"]
    for layer in range(config.num_hidden_layers):
        modules += [
            f"encoder.layer.{layer}.{module}"
            for module in (
                "attention.self.query",
                "attention.self.key",
                "attention.self.value",
                "attention.output.dense",
                "attention.output.LayerNorm",
                "intermediate.dense",
                "output.dense",
                "output.LayerNorm",
            )
        ]
    for module in modules:
        yield f"{module}.weight"
        yield f"{module}.bias"
