"""Writes docs/configuration.md from the settings classes; a test fails when the page is stale."""

from __future__ import annotations

import importlib
from pathlib import Path

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from deploy.local import LocalSettings
from shared.settings import PREFIX, ServiceSettings

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
MODULES = (
    "gateway.settings",
    "services.model.settings",
    "services.text2sql.settings",
    "services.vision.settings",
)

HEAD = """# Configuration

Every setting is an environment variable, or a line of `.env` in the folder the suite is started from.
A wrong one is found at start and said in one sentence. This page is written by
`python -m deploy.reference` from the settings classes.
"""


def settings_classes() -> dict[str, type[BaseSettings]]:
    """Title and class of every settings class, the common one first."""
    classes: dict[str, type[BaseSettings]] = {"Every service": ServiceSettings, "`make run`": LocalSettings}
    for name in MODULES:
        module = importlib.import_module(name)
        classes |= {
            f"{kind.service}": kind
            for kind in vars(module).values()
            if isinstance(kind, type) and issubclass(kind, ServiceSettings) and kind.__module__ == name
        }
    return classes


def render() -> str:
    """The whole page."""
    parts = [HEAD]
    for title, kind in settings_classes().items():
        common = set() if kind in (ServiceSettings, LocalSettings) else set(ServiceSettings.model_fields)
        rows = [
            f"| `{PREFIX}{name.upper()}` | {_default(field)} | {field.description or ''} |"
            for name, field in kind.model_fields.items()
            if name not in common
        ]
        parts.append(
            f"\n## {title}\n\n| variable | default | meaning |\n| --- | --- | --- |\n" + "\n".join(rows)
        )
    return "\n".join(parts) + "\n"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be set"
    value = field.default
    if value is None or value is PydanticUndefined:
        return ""
    text = str(value)
    return f"`{text}`" if len(text) <= 60 else "see the code"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
