"""Writes the generated parts of the client: the synchronous half, and the models.

    python sdk/generate.py            write both
    python sdk/generate.py --check    write nothing; exit 1 and name what has drifted

`latticework/_sync` is `latticework/_async` with waiting taken out. `latticework/models.py` is the
merged OpenAPI document of the suite, read by datamodel-code-generator.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGE = Path(__file__).parent / "latticework"
HAND_WRITTEN = {"_io.py"}
HEADER = "# Generated from {source} by sdk/generate.py; do not edit.\n"

SECRET = "made-up-since-nothing-is-ever-started-0123456789"
NOWHERE = "redis://127.0.0.1:1/0"

WITH_IMAGE = ("ScaffoldAnswer", "CropAnswer")
CODEGEN_FLAGS = [
    *("--input-file-type", "openapi"),
    *("--output-model-type", "pydantic_v2.BaseModel"),
    *("--target-python-version", "3.11"),
    *("--base-class", "latticework._model.ApiModel"),
    *("--base-class-map", json.dumps(dict.fromkeys(WITH_IMAGE, "latticework._model.ImageAnswer"))),
    *("--enum-field-as-literal", "all"),
    *("--formatters", "ruff-format"),
    "--use-tuple-for-closed-arrays",
    "--use-annotated",
    "--use-schema-description",
    "--use-field-description",
    "--use-double-quotes",
    "--strict-nullable",
    "--collapse-root-models",
    "--disable-timestamp",
]
NOT_FOR_CLIENTS = {
    "title", "examples", "pattern", "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "minItems", "maxItems", "minProperties", "maxProperties", "propertyNames",
}  # fmt: skip
NOT_FOR_CLIENTS_AS = (("additionalProperties", False), ("format", "path"), ("format", "uri"))

# Longest first where one contains another.
RULES = [
    (r"\basync def\b", "def"),
    (r"\basync with\b", "with"),
    (r"\basync for\b", "for"),
    (r"\bawait\s+", ""),
    (r"\basynccontextmanager\b", "contextmanager"),
    (r"\baclosing\b", "closing"),
    (r"\banext\b", "next"),
    (r"\bAwaitable\[(\w+)\]", r"\1"),
    (r"\bAwaitable, ", ""),
    (r"\bStopAsyncIteration\b", "StopIteration"),
    (r"\bhttpx2\.Async(\w+)", r"httpx2.\1"),
    (r"\bopenai\.AsyncOpenAI\b", "openai.OpenAI"),
    (r"\bAsync([A-Z]\w*)", r"\1"),
    (r"\b_async\b", "_sync"),
    (r"\b__a(enter|exit|iter|next)__", r"__\1__"),
    (r"\ba(close|read|iter_bytes)\(", r"\1("),
    (r"\basynchronous\b", "synchronous"),
]  # fmt: skip


def synchronous(source: str) -> str:
    """The synchronous twin of asynchronous source code."""
    for pattern, replacement in RULES:
        source = re.sub(pattern, replacement, source)
    return source


def sync_files() -> dict[Path, str]:
    """Every file of `_sync` that is generated, with its content in the house style."""
    source_root = PACKAGE / "_async"
    with tempfile.TemporaryDirectory() as folder:
        drafts: dict[Path, Path] = {}
        for source in sorted(source_root.rglob("*.py")):
            relative = source.relative_to(source_root)
            if relative.name in HAND_WRITTEN:
                continue
            draft = Path(folder) / "latticework" / "_sync" / relative
            draft.parent.mkdir(parents=True, exist_ok=True)
            header = HEADER.format(source=f"latticework/_async/{relative}")
            draft.write_text(header + synchronous(source.read_text()))
            drafts[PACKAGE / "_sync" / relative] = draft
        style = ["--quiet", "--no-cache", "--config", str(ROOT / "pyproject.toml"), folder]
        ruff = [sys.executable, "-m", "ruff"]
        mended = ["--select", "I,F401,UP028", "--fix", "--unsafe-fixes"]
        subprocess.run([*ruff, "check", *mended, *style], check=True)
        subprocess.run([*ruff, "format", *style], check=True)
        return {target: draft.read_text() for target, draft in drafts.items()}


def models_file() -> str:
    """The content of `models.py`."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "openapi.json"), Path(folder, "models.py")
        source.write_text(json.dumps(pruned(merged_document())))
        flags = [*CODEGEN_FLAGS, "--input", str(source), "--output", str(target)]
        subprocess.run([sys.executable, "-m", "datamodel_code_generator", *flags], check=True)
        header = HEADER.format(source="the merged OpenAPI document of the suite")
        return header + target.read_text()


def merged_document() -> dict[str, Any]:
    """The OpenAPI document of the whole suite, as the gateway serves it; nothing is started for it."""
    sys.path.insert(0, str(ROOT))
    merge = importlib.import_module("gateway.openapi").merge
    create = importlib.import_module("shared.app").create_app
    with tempfile.TemporaryDirectory() as home:
        routers = importlib.import_module("gateway.app").routers()
        gateway = create(
            service="gateway", settings=settings_of("gateway", home), title="Latticework", routers=routers
        )
        rooms = {
            name: importlib.import_module(f"services.{name}.app").create_app(
                settings_of(f"services.{name}", home)
            )
            for name in sorted(path.parent.name for path in (ROOT / "services").glob("*/app.py"))
        }
        document: dict[str, Any] = merge(
            gateway.openapi(), {name: room.openapi() for name, room in rooms.items()}
        )
    return document


def settings_of(package: str, home: str) -> Any:
    """Settings good enough to make a service, not to run it."""
    module = importlib.import_module(f"{package}.settings")
    foundation = importlib.import_module("shared.settings")
    kinds: list[Any] = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, foundation.ServiceSettings)
        and value.__module__ == module.__name__
    ]
    needed = {name: SECRET for name, field in kinds[0].model_fields.items() if field.is_required()}
    return foundation.load_settings(kinds[0], **{**needed, "home": Path(home), "redis_url": NOWHERE})


def pruned(document: dict[str, Any]) -> dict[str, Any]:
    """Only the schemas, without what a client must not insist on.

    The service checks ranges and patterns of what is sent, and may relax them; a client that did so
    too would refuse answers of the next version. Titles only repeat the names.
    """
    schemas = document["components"]["schemas"]
    return {
        "openapi": document["openapi"],
        "info": {"title": "Latticework", "version": "1"},
        "paths": {},
        "components": {"schemas": {name: _prune(schema) for name, schema in sorted(schemas.items())}},
    }


def _prune(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_prune(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {}
    if "prefixItems" in schema:  # A tuple, and its length is its type.
        kept |= {name: schema[name] for name in ("minItems", "maxItems") if name in schema}
    for keyword, value in schema.items():
        if keyword == "properties":
            kept[keyword] = {name: _prune(one) for name, one in value.items()}
        elif keyword in ("default", "enum", "const", "required"):
            kept[keyword] = value
        elif keyword in NOT_FOR_CLIENTS or (keyword, value) in NOT_FOR_CLIENTS_AS:
            continue
        else:
            kept[keyword] = _prune(value)
    for keyword in ("prefixItems", "anyOf"):
        # The generator makes a class of a tuple inside of these; a list of its one type says as much.
        if keyword in kept:
            kept[keyword] = [_as_list(one) for one in kept[keyword]]
    return kept


def _as_list(schema: dict[str, Any]) -> dict[str, Any]:
    items = schema.get("prefixItems", [])
    if not items or any(one != items[0] for one in items):
        return schema
    return {"type": "array", "items": items[0]}


def main(arguments: list[str]) -> int:
    """Write or check; the exit status."""
    wanted = {**sync_files(), PACKAGE / "models.py": models_file()}
    stale = [path for path, content in wanted.items() if not path.exists() or path.read_text() != content]
    for path in stale:
        name = path.relative_to(PACKAGE.parent)
        if "--check" in arguments:
            print(f"{name} has drifted; run: python sdk/generate.py")
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path])
        print(f"wrote {name}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
