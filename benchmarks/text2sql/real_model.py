"""What a real model scores: direct SQL against Pi-SQL fast and standard, on questions of spider-dev.

`python -m benchmarks.text2sql.real_model [--name NAME] [--half reporting] [--questions 100] [--seconds 540]`
`python -m benchmarks.text2sql.real_model --name timed --timed --questions 15`
`python -m benchmarks.text2sql.real_model --name NAME --seconds 0 --against OTHER`

Without `--url` it starts the model service with the embedded model. Every reply and every record is
written at once, so a run that ends at its wall-clock budget, or is interrupted, continues where it
stopped when started again with the same options.

Several questions are asked together, and configurations that make the same request of the same question
share its reply: they are compared on one model, not on its noise. What such a run says of quality does not
depend on the machine; what it would say of time does, so it says nothing. `--timed` asks one question at a
time and shares nothing. `--half` takes the five databases that prompts, cues and grammars were developed on,
or the others (`datasets.example_databases`).
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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from benchmarks.text2sql.common import HALVES, RESULTS, questions_of, write_json
from services.text2sql.evaluation import ablations, report
from services.text2sql.evaluation.datasets import Item
from services.text2sql.evaluation.environment import Environment
from services.text2sql.evaluation.harness import Harness, Record
from services.text2sql.evaluation.metrics import percentage
from services.text2sql.evaluation.significance import compare
from services.text2sql.gateway_chat import ask
from services.text2sql.pisql.chat import ChatReply, ChatRequest, Recording, RecordingChat
from services.text2sql.pisql.configuration import Budget, Configuration, ModelProfile
from services.text2sql.pisql.errors import ErrorCode
from shared.app import free_port
from shared.llm import ChatClient, GatewayTransport
from shared.principal import Principal, PrincipalSigner

READY_SECONDS = 180.0


class EndpointChat:
    """The chat port over any OpenAI-compatible endpoint."""

    def __init__(self, url: str, token: Callable[[], str], client: httpx.AsyncClient) -> None:
        self._transport = GatewayTransport(url, token, client=client, attempts=2)

    async def complete(self, request: ChatRequest) -> ChatReply:
        """One reply."""
        return await ask(ChatClient(self._transport, model=request.model), request)


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


class _Run:
    """One run: what was asked before, what is asked now, and where it is written."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self._arguments = arguments
        self._replies, self._kept = folder / "replies.jsonl", folder / "records.jsonl"
        self.records = _load(self._kept)
        self._recording = Recording.load(self._replies) if self._replies.exists() else Recording()
        profile = ModelProfile.small() if arguments.profile == "small" else ModelProfile()
        self._compared = ablations.configurations(
            tuple(arguments.configurations.split(",")),
            model=arguments.model,
            model_profiles={arguments.model: profile},
            seed=arguments.seed,
        )
        self._ends = time.monotonic() + arguments.seconds

    async def ask_all(self, url: str, token: Callable[[], str]) -> None:
        """Ask every question that has no record yet, until the seconds of this run end."""
        dataset = questions_of(self._arguments.half, self._arguments.questions)
        together = asyncio.Semaphore(1 if self._arguments.timed else self._arguments.together)
        async with httpx.AsyncClient(timeout=httpx.Timeout(600, connect=5), trust_env=False) as client:
            chat = EndpointChat(url, token, client)
            with Environment(dataset) as environment:

                async def one(item: Item) -> None:
                    async with together:
                        await self._ask(environment, chat, item)

                first, every = map(int, self._arguments.share.split("/"))
                await asyncio.gather(*(one(item) for item in dataset.items[first::every]))

    async def _ask(self, environment: Environment, chat: EndpointChat, item: Item) -> None:
        for name, configuration in self._compared.items():
            done = self.records.setdefault(name, {})
            if item.id in done or time.monotonic() > self._ends:
                continue
            # A fresh reader of the shared recording: it hears what other configurations were told.
            shared = Recording() if self._arguments.timed else self._recording
            harness = Harness(environment, RecordingChat(chat, shared, self._replies))
            record, answer = await harness.run(item, _patient(configuration))
            if answer is not None and any(w.code == ErrorCode.LLM_UNAVAILABLE for w in answer.warnings):
                print(f"{item.id} {name}: a call failed; run again", flush=True)
                return
            done[item.id] = record
            line = {"configuration": name, "record": dataclasses.asdict(record)}
            with self._kept.open("a", encoding="utf-8") as sink:
                sink.write(json.dumps(line) + "\n")
            print(
                f"{name} {len(done)}: {item.id} {record.verdict} {'right' if record.ex_set else 'wrong'}",
                flush=True,
            )


def _patient(configuration: Configuration) -> Configuration:
    """A small model on a slow machine must not lose for want of time: only calls and tokens bound it."""
    return configuration.with_changes(
        budget=Budget(
            calls=configuration.budget.calls,
            prompt_tokens=configuration.budget.prompt_tokens,
            completion_tokens=configuration.budget.completion_tokens,
            wall_seconds=3_600.0,
            sandbox_cpu_seconds=configuration.budget.sandbox_cpu_seconds,
        )
    )


def _finished(records: Mapping[str, Mapping[str, Record]]) -> dict[str, dict[str, Record]]:
    """Records of the questions that every configuration has answered."""
    asked = set.intersection(*(set(found) for found in records.values())) if records else set()
    return {name: {key: found[key] for key in found if key in asked} for name, found in records.items()}


def _untimed(built: dict[str, Any]) -> None:
    """Leave out durations: questions that wait for each other have none of their own."""
    for entry in built["configurations"].values():
        for summary in (entry["summary"], *entry["difficulties"].values()):
            summary.pop("seconds")
            summary.pop("overhead_p50_ms")


def _against(
    now: Mapping[str, Mapping[str, Record]], other: Mapping[str, Mapping[str, Record]], name: str
) -> str:
    """EX of two runs on the questions both have answered, paired."""
    lines = [f"| paired with {name} | questions | EX before | EX now | 95 % interval | McNemar p |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for configuration, records in now.items():
        keys = [key for key in records if key in other.get(configuration, {})]
        before, after = ([source[configuration][key].ex_set for key in keys] for source in (other, now))
        found = compare(before, after)
        lines.append(
            f"| {configuration} | {len(keys)} | {percentage(before):.1f} | {percentage(after):.1f} | "
            f"{found.low:+.1f} .. {found.high:+.1f} | {found.p_value:.4f} |"
        )
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--half", choices=HALVES, default="reporting")
    parser.add_argument("--seconds", type=float, default=540.0, help="wall-clock budget of this call")
    parser.add_argument("--together", type=int, default=4, help="questions asked at the same time")
    parser.add_argument("--share", default="0/1", help="K/N: of N processes on one run, this is the K-th")
    parser.add_argument("--timed", action="store_true", help="one question at a time, nothing shared")
    parser.add_argument("--configurations", default="direct,fast,standard")
    parser.add_argument("--model", default="default")
    parser.add_argument("--profile", choices=("small", "full"), default="small")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--url", help="an OpenAI-compatible endpoint instead of the embedded model")
    parser.add_argument("--key", default="", help="its key")
    parser.add_argument("--name", default="embedded", help="folder of this run under results/real_model/")
    parser.add_argument("--against", help="name of another run to compare with, question by question")
    return parser.parse_args()


def main() -> None:
    """Run, print the table, write JSON."""
    arguments = _arguments()
    runs = RESULTS / "real_model"
    (runs / arguments.name).mkdir(parents=True, exist_ok=True)
    run = _Run(arguments, runs / arguments.name)
    if arguments.url:
        asyncio.run(run.ask_all(arguments.url, lambda: arguments.key))
    elif arguments.seconds > 0:
        with embedded_model() as (url, token):
            asyncio.run(run.ask_all(url, token))
    found = _finished(run.records)
    count = max((len(records) for records in found.values()), default=0)
    built = report.build(f"spider-dev, {count} questions, {arguments.name}", found)
    if not arguments.timed:
        _untimed(built)
    write_json(f"real_model_{arguments.name}", built)
    print(report.markdown(built))
    if arguments.against:
        other = _load(runs / arguments.against / "records.jsonl")
        print(_against(run.records, other, arguments.against))


if __name__ == "__main__":
    main()
