"""Sentence embeddings with a BERT encoder: texts in, unit vectors out.

A pure package: it knows weights, tokens and matrices, and nothing of HTTP, engines or the suite.
"""

from services.model.encoder.encoder import EncoderFiles, SentenceEncoder, TooLong
from services.model.encoder.graph import BertConfig, build_graph

__all__ = ["BertConfig", "EncoderFiles", "SentenceEncoder", "TooLong", "build_graph"]
