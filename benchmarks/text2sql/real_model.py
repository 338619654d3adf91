"""What a real model scores: direct SQL against Pi-SQL fast and standard, on questions of spider-dev.

`python -m benchmarks.text2sql.real_model [--questions 100] [--seconds 3600] [--url URL --key KEY]`

Without `--url` it starts the model service with the embedded model. Every reply and every record is
written at once, so a run that ends at its wall-clock budget, or is interrupted, continues where it
stopped when started again with the same options.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

from benchmarks.text2sql.common import RESULTS, spider_folder, write_json
from services.text2sql.evaluation import ablations, report
from services.text2sql.evaluation.datasets import spider_dev
from services.text2sql.evaluation.environment import Environment
from services.text2sql.evaluation.harness import Harness, Record
from services.text2sql.pisql.chat import ChatReply, ChatRequest, Recording, RecordingChat
from services.text2sql.pisql.configuration import Budget, Configuration, ModelProfile
from services.text2sql.pisql.errors import ModelUnavailableError
from shared.app import free_port
from shared.llm import ChatClient, GatewayTransport
from shared.principal import Principal, PrincipalSigner
from shared.problems import Problem

READY_SECONDS = 180.0


class EndpointChat:
    """The chat port over any OpenAI-compatible endpoint."""

    def __init__(self, url: str, token: Callable[[], str], client: httpx.AsyncClient) -> None:
        self._transport = GatewayTransport(url, token, client=client, attempts=2)

    async def complete(self, request: ChatRequest) -> ChatReply:
        """One reply."""
        options: dict[str, object] = {
            "temperature": request.temperature,
            "seed": request.seed,
            "max_tokens": request.max_tokens,
        }
        if request.grammar:
            options["grammar"] = request.grammar
        messages = [{"role": item.role, "content": item.content} for item in request.messages]
        started = time.perf_counter()
        try:
            reply = await ChatClient(self._transport, model=request.model).chat(messages, **options)
        except Problem as problem:
            raise ModelUnavailableError(problem.detail or problem.title) from problem
        return ChatReply(
            text=reply.text,
            prompt_tokens=reply.usage.prompt_tokens,
            completion_tokens=reply.usage.completion_tokens,
            finish_reason=reply.finish_reason or "",
            seconds=time.perf_counter() - started,
        )


@contextlib.contextmanager
def embedded_model() -> Iterator[tuple[str, Callable[[], str]]]:
    """The model service with the embedded model; (address, token source)."""
    secret, port = secrets.token_urlsafe(48), free_port()
    signer = PrincipalSigner(secret)
    principal = Principal(key_id="key_bench", tenant="bench", scopes=frozenset({"model"}))
    with tempfile.TemporaryDirectory() as home:
        environment = {
            **os.environ,
            "LATTICEWORK_HOME": home,
            "LATTICEWORK_PORT": str(port),
            "LATTICEWORK_PRINCIPAL_SECRET": secret,
            "LATTICEWORK_MODEL_REQUIRED": '["default"]',
            "LATTICEWORK_LOG_LEVEL": "error",
        }
        process = subprocess.Popen([sys.executable, "-m", "services.model"], env=environment)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(url, process)
            yield url, lambda: signer.sign(principal, audience="model")
        finally:
            process.terminate()
            process.wait(60)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/readyz", timeout=5, trust_env=False).status_code == 200:
                return
        time.sleep(0.5)
    raise RuntimeError("the model service did not become ready")


def _load(path: Path) -> dict[str, dict[str, Record]]:
    records: dict[str, dict[str, Record]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            item = json.loads(line)
            records.setdefault(item["configuration"], {})[item["record"]["item"]] = Record(**item["record"])
    return records


async def _ask_all(
    arguments: argparse.Namespace, url: str, token: Callable[[], str], folder: Path
) -> dict[str, dict[str, Record]]:
    replies, kept = folder / "replies.jsonl", folder / "records.jsonl"
    records = _load(kept)
    dataset = spider_dev(spider_folder()).limited(arguments.questions)
    profile = ModelProfile.small() if arguments.profile == "small" else ModelProfile()
    compared = ablations.configurations(
        tuple(arguments.configurations.split(",")),
        model=arguments.model,
        model_profiles={arguments.model: profile},
        seed=arguments.seed,
    )
    ends = time.monotonic() + arguments.seconds
    recording = Recording.load(replies) if replies.exists() else Recording()
    async with httpx.AsyncClient(timeout=httpx.Timeout(300, connect=5), trust_env=False) as client:
        chat = RecordingChat(EndpointChat(url, token, client), recording, replies)
        with Environment(dataset) as environment, kept.open("a", encoding="utf-8") as sink:
            harness = Harness(environment, chat)
            for number, item in enumerate(dataset.items):
                for name, configuration in compared.items():
                    if item.id in records.get(name, {}):
                        continue
                    if time.monotonic() > ends:
                        print(
                            f"the budget of {arguments.seconds} s ended before {item.id}; run again",
                            flush=True,
                        )
                        return records
                    record, _ = await harness.run(item, _patient(configuration))
                    records.setdefault(name, {})[item.id] = record
                    line = {"configuration": name, "record": dataclasses.asdict(record)}
                    sink.write(json.dumps(line) + "\n")
                    sink.flush()
                print(f"{number + 1}/{len(dataset.items)} {item.id}", flush=True)
    return records


def _patient(configuration: Configuration) -> Configuration:
    """A small model on a slow machine must not lose for want of time: only calls and tokens bound it."""
    return configuration.with_changes(
        budget=Budget(
            calls=configuration.budget.calls,
            prompt_tokens=configuration.budget.prompt_tokens,
            completion_tokens=configuration.budget.completion_tokens,
            wall_seconds=600.0,
            sandbox_cpu_seconds=configuration.budget.sandbox_cpu_seconds,
        )
    )


def main() -> None:
    """Run, print the table, write JSON and Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=3_600.0, help="wall-clock budget of this run")
    parser.add_argument("--configurations", default="direct,fast,standard")
    parser.add_argument("--model", default="default")
    parser.add_argument("--profile", choices=("small", "full"), default="small")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--url", help="an OpenAI-compatible endpoint instead of the embedded model")
    parser.add_argument("--key", default="", help="its key")
    parser.add_argument("--name", default="embedded", help="folder of this run under results/")
    arguments = parser.parse_args()
    folder = RESULTS / "real_model" / arguments.name
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.url:
        records = asyncio.run(_ask_all(arguments, arguments.url, lambda: arguments.key, folder))
    else:
        with embedded_model() as (url, token):
            records = asyncio.run(_ask_all(arguments, url, token, folder))
    asked = set.intersection(*(set(found) for found in records.values())) if records else set()
    shared = {name: {key: found[key] for key in found if key in asked} for name, found in records.items()}
    built = report.build(f"spider-dev, {len(asked)} questions", shared)
    write_json(f"real_model_{arguments.name}", built)
    print(report.markdown(built))


if __name__ == "__main__":
    main()
