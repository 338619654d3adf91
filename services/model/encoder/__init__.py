"""Sentence embeddings with a BERT encoder: texts in, unit vectors out.

A pure package: it knows weights, tokens and matrices, and nothing of HTTP, engines or the suite.
`encoder` runs the model, `graph` builds it, `vectors` is what callers need without loading either:
onnxruntime takes half a second to import, and onnx is needed only where a graph is built.
"""
