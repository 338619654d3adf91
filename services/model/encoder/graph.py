"""A BERT sentence encoder as a plain ONNX graph, built from its published weights.

Architecture: Devlin et al. 2018 (post-norm transformer, erf GELU), pooled and normalised as Reimers
and Gurevych 2019 describe (mean over the tokens that are not padding, unit length).

Names follow the weights' own: B texts, T tokens, H heads, W width (hidden size).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from services.model.encoder.config import OPSET, BertConfig

#: What a padded position gets before the softmax; -inf would make NaN of an empty row.
MASKED = -1e9

Weights = Mapping[str, npt.NDArray[Any]]


class _Builder:
    """Collects nodes and constants; every method returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        output = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: npt.ArrayLike, dtype: Any = np.float32) -> str:
        if name not in self.constants:
            array = np.asarray(value, dtype=dtype, order="C")
            self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def integers(self, *values: int) -> str:
        return self.constant("i_" + "_".join(str(value) for value in values), values, np.int64)


def build_graph(weights: Weights, config: BertConfig) -> onnx.ModelProto:
    """The graph: `input_ids` and `attention_mask` (B, T) int64 -> `embedding` (B, W) float32.

    Raises:
        KeyError: a tensor the architecture needs is missing.
    """
    graph = _Builder()
    mask = graph.op("Cast", "attention_mask", to=TensorProto.FLOAT)
    hidden = _embed(graph, weights, config)
    bias = _attention_bias(graph, mask)
    for layer in range(config.num_hidden_layers):
        hidden = _layer(graph, weights, config, f"encoder.layer.{layer}", hidden, bias)
    _pool(graph, hidden, mask)
    integer_input = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "T"])
        for name in ("input_ids", "attention_mask")
    ]
    output = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["B", config.hidden_size])]
    body = helper.make_graph(
        graph.nodes, "sentence_encoder", integer_input, output, list(graph.constants.values())
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def _embed(graph: _Builder, weights: Weights, config: BertConfig) -> str:
    """Word, position and (constant) segment embeddings, normalised: (B, T, W)."""
    prefix = "embeddings"
    words = graph.constant("words", weights[f"{prefix}.word_embeddings.weight"])
    segment = weights[f"{prefix}.token_type_embeddings.weight"][0]
    positions = graph.constant("positions", weights[f"{prefix}.position_embeddings.weight"] + segment)
    length = graph.op("Shape", "input_ids", start=1, end=2)
    present = graph.op("Slice", positions, graph.integers(0), length, graph.integers(0))
    summed = graph.op("Add", graph.op("Gather", words, "input_ids"), present)
    return _norm(graph, weights, config, f"{prefix}.LayerNorm", summed)


def _attention_bias(graph: _Builder, mask: str) -> str:
    """0 where there is a token, MASKED where there is padding: (B, 1, 1, T)."""
    absent = graph.op("Sub", graph.constant("one", 1.0), mask)
    bias = graph.op("Mul", absent, graph.constant("masked", MASKED))
    return graph.op("Unsqueeze", bias, graph.integers(1, 2))


def _layer(graph: _Builder, weights: Weights, config: BertConfig, prefix: str, hidden: str, bias: str) -> str:
    attended = _attention(graph, weights, config, f"{prefix}.attention.self", hidden, bias)
    projected = _linear(graph, weights, f"{prefix}.attention.output.dense", attended)
    middle = _norm(
        graph, weights, config, f"{prefix}.attention.output.LayerNorm", graph.op("Add", hidden, projected)
    )
    wide = graph.op("Gelu", _linear(graph, weights, f"{prefix}.intermediate.dense", middle))
    narrow = _linear(graph, weights, f"{prefix}.output.dense", wide)
    return _norm(graph, weights, config, f"{prefix}.output.LayerNorm", graph.op("Add", middle, narrow))


def _attention(
    graph: _Builder, weights: Weights, config: BertConfig, prefix: str, hidden: str, bias: str
) -> str:
    """Scaled dot-product attention over H heads; queries, keys and values in one multiplication."""
    heads, width = config.num_attention_heads, config.hidden_size
    size = width // heads
    parts = ("query", "key", "value")
    matrix = np.concatenate([weights[f"{prefix}.{part}.weight"].T for part in parts], axis=1)
    offset = np.concatenate([weights[f"{prefix}.{part}.bias"] for part in parts])
    # The scale goes into the query's weights, which saves a pass over the (B, H, T, T) scores.
    matrix[:, :width] /= np.sqrt(size)
    offset[:width] /= np.sqrt(size)
    product = graph.op("MatMul", hidden, graph.constant(f"{prefix}.weight", matrix))
    together = graph.op("Add", product, graph.constant(f"{prefix}.bias", offset))
    # (B, T, 3 W) -> (3, B, H, T, size)
    split = graph.op("Reshape", together, graph.integers(0, 0, 3, heads, size))
    ordered = graph.op("Transpose", split, perm=[2, 0, 3, 1, 4])
    query, key, value = (
        graph.op("Gather", ordered, graph.constant(f"index_{index}", index, np.int64), axis=0)
        for index in range(3)
    )
    scores = graph.op("MatMul", query, graph.op("Transpose", key, perm=[0, 1, 3, 2]))
    shares = graph.op("Softmax", graph.op("Add", scores, bias), axis=-1)
    mixed = graph.op("Transpose", graph.op("MatMul", shares, value), perm=[0, 2, 1, 3])
    return graph.op("Reshape", mixed, graph.integers(0, 0, width))


def _pool(graph: _Builder, hidden: str, mask: str) -> None:
    """Mean over the present tokens, then unit length: `embedding` (B, W)."""
    weight = graph.op("Unsqueeze", mask, graph.integers(2))
    summed = graph.op("ReduceSum", graph.op("Mul", hidden, weight), graph.integers(1), keepdims=0)
    count = graph.op("ReduceSum", weight, graph.integers(1), keepdims=0)
    mean = graph.op("Div", summed, graph.op("Max", count, graph.constant("least", 1e-9)))
    length = graph.op("ReduceL2", mean, graph.integers(1), keepdims=1)
    bounded = graph.op("Max", length, graph.constant("shortest", 1e-12))
    graph.nodes.append(helper.make_node("Div", [mean, bounded], ["embedding"], name="embedding"))


def _linear(graph: _Builder, weights: Weights, prefix: str, hidden: str) -> str:
    matrix = graph.constant(f"{prefix}.weight", weights[f"{prefix}.weight"].T)
    return graph.op(
        "Add", graph.op("MatMul", hidden, matrix), graph.constant(f"{prefix}.bias", weights[f"{prefix}.bias"])
    )


def _norm(graph: _Builder, weights: Weights, config: BertConfig, prefix: str, hidden: str) -> str:
    return graph.op(
        "LayerNormalization",
        hidden,
        graph.constant(f"{prefix}.weight", weights[f"{prefix}.weight"]),
        graph.constant(f"{prefix}.bias", weights[f"{prefix}.bias"]),
        axis=-1,
        epsilon=config.layer_norm_eps,
    )
