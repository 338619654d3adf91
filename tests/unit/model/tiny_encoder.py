"""An encoder of a few numbers, in the layout of a real one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from services.model.encoder.encoder import EncoderFiles
from services.model.engines.encoder import packaged_encoder


def tiny_encoder(folder: Path, seed: int = 0, **changes: Any) -> EncoderFiles:
    """Random weights of width 8 under `folder`; `changes` go into its config.json."""
    width, inner, layers = 8, 16, 1
    config = {
        "model_type": "bert", "hidden_act": "gelu", "hidden_size": width, "num_hidden_layers": layers,
        "num_attention_heads": 2, "layer_norm_eps": 1e-12, "max_position_embeddings": 12, "vocab_size": 30522,
    }  # fmt: skip
    source = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (30522, width),
        "embeddings.position_embeddings.weight": (12, width),
        "embeddings.token_type_embeddings.weight": (2, width),
    }
    for name, rows, columns in (
        ("attention.self.query", width, width),
        ("attention.self.key", width, width),
        ("attention.self.value", width, width),
        ("attention.output.dense", width, width),
        ("intermediate.dense", inner, width),
        ("output.dense", width, inner),
    ):
        shapes[f"encoder.layer.0.{name}.weight"] = (rows, columns)
        shapes[f"encoder.layer.0.{name}.bias"] = (rows,)
    for name in (
        "embeddings.LayerNorm",
        "encoder.layer.0.attention.output.LayerNorm",
        "encoder.layer.0.output.LayerNorm",
    ):
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: source.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config | changes))
    (folder / "tokenizer.json").write_bytes((packaged_encoder() / "tokenizer.json").read_bytes())
    return EncoderFiles(folder)
