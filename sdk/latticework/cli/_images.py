"""Pictures in terminals: kitty's and iTerm2's protocols, or coloured half blocks where neither is spoken."""

from __future__ import annotations

import io
import os
import shutil
import sys
from base64 import b64encode
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import TextIO

KITTY_CHUNK = 4096
MAX_COLUMNS = 120
UPPER_HALF = "▀"


class Protocol(StrEnum):
    """How a terminal takes pictures."""

    kitty = "kitty"
    iterm = "iterm"
    blocks = "blocks"
    none = "none"


def detect(environ: Mapping[str, str] = os.environ, *, terminal: bool | None = None) -> Protocol:
    """What the terminal of this process can show, judged by its environment."""
    if not (sys.stdout.isatty() if terminal is None else terminal) or environ.get("TERM") == "dumb":
        return Protocol.none
    # Inside tmux and screen the picture protocols do not get through.
    if "TMUX" not in environ and not environ.get("TERM", "").startswith("screen"):
        program = environ.get("TERM_PROGRAM", "")
        if "KITTY_WINDOW_ID" in environ or "kitty" in environ.get("TERM", "") or program == "ghostty":
            return Protocol.kitty
        if program in ("iTerm.app", "WezTerm", "vscode") or "ITERM_SESSION_ID" in environ:
            return Protocol.iterm
    colours = environ.get("COLORTERM", "")
    return Protocol.blocks if colours in ("truecolor", "24bit") and _has_decoder() else Protocol.none


def show(image: bytes, protocol: Protocol, out: TextIO | None = None) -> None:
    """Write a PNG to the terminal, or to `out`."""
    out = out or sys.stdout
    if protocol is Protocol.kitty:
        out.writelines(kitty(image))
    elif protocol is Protocol.iterm:
        out.write(iterm(image))
    elif protocol is Protocol.blocks:
        columns = min(shutil.get_terminal_size().columns, MAX_COLUMNS)
        out.writelines(half_blocks(image, columns))
    else:
        return
    out.write("\n")
    out.flush()


def kitty(png: bytes) -> Iterator[str]:
    """The escape sequences of kitty's graphics protocol: transmit and display, in chunks of 4096."""
    data = b64encode(png).decode()
    pieces = [data[start : start + KITTY_CHUNK] for start in range(0, len(data), KITTY_CHUNK)]
    for index, piece in enumerate(pieces):
        control = "a=T,f=100,q=2," if index == 0 else ""
        more = int(index < len(pieces) - 1)
        yield f"\x1b_G{control}m={more};{piece}\x1b\\"


def iterm(image: bytes) -> str:
    """The escape sequence of iTerm2's inline images."""
    return f"\x1b]1337;File=inline=1;size={len(image)};preserveAspectRatio=1:{b64encode(image).decode()}\x07"


def half_blocks(image: bytes, columns: int) -> Iterator[str]:
    """Lines of `▀`: each cell shows two pixels, the upper as its colour, the lower as its ground."""
    from PIL import Image

    with Image.open(io.BytesIO(image)) as opened:
        width = max(1, min(columns, opened.width))
        # A cell is about twice as high as wide, and holds two pixels: pixels come out square.
        height = max(2, round(opened.height * width / opened.width / 2) * 2)
        pixels = opened.convert("RGB").resize((width, height)).tobytes()
    for row in range(0, height, 2):
        yield (
            "".join(
                f"\x1b[38;2;{_colour(pixels, row * width + column)}m"
                f"\x1b[48;2;{_colour(pixels, (row + 1) * width + column)}m{UPPER_HALF}"
                for column in range(width)
            )
            + "\x1b[0m\n"
        )


def _colour(pixels: bytes, index: int) -> str:
    red, green, blue = pixels[3 * index : 3 * index + 3]
    return f"{red};{green};{blue}"


def _has_decoder() -> bool:
    try:
        import PIL  # noqa: F401
    except ImportError:
        return False
    return True
