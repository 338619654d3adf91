"""The process of a llama.cpp engine: reads its configuration as JSON from stdin and serves.

Run by path, not as a module, so that nothing of the suite is imported: the process starts in the time
the weights need. It ends with the process that started it.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import launch  # type: ignore[import-not-found]
import xllamacpp

WARNINGS = 2


def parameters(config: dict[str, Any]) -> Any:
    """llama.cpp's parameters for our configuration."""
    params = xllamacpp.CommonParams()
    params.model.path = config["path"]
    params.model_alias = {config["model"]}
    params.n_parallel = config["slots"]
    # Every slot has its own part of the cache: a long neighbour cannot push a request out.
    params.n_ctx = config["context_length"] * config["slots"]
    params.fit_params = False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = config["threads"]
    params.n_gpu_layers = config["gpu_layers"]
    params.cache_ram_mib = config["prompt_cache_mib"]
    params.hostnames = ["127.0.0.1"]
    params.port = config["port"]
    params.api_keys = [config["key"]]
    params.endpoint_metrics = True
    params.endpoint_slots = params.ui = False
    params.sse_ping_interval = -1
    params.verbosity = WARNINGS
    params.use_jinja = True
    if config["chat_template"]:
        params.chat_template = config["chat_template"]
    params.lora_adapters = [
        xllamacpp.CommonAdapterLoraInfo(adapter["path"], adapter["scale"]) for adapter in config["adapters"]
    ]
    return params


if __name__ == "__main__":
    launch.die_with_parent()
    server = xllamacpp.Server(parameters(json.load(sys.stdin)))
    threading.Event().wait()
