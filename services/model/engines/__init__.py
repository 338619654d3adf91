"""Engines: what runs models, behind one interface, and what keeps them running.

`specs` describes them, `base` is the interface, `supervised` runs a process; `llamacpp`, `vllm`,
`upstream` and `encoder` are the kinds; `manager` holds them under their names.
"""
