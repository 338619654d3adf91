"""Scaffold: a matrix of labelled dots on an image, the prompt that goes with it, and the way back.

"Scaffolding Coordinates to Promote Vision-Language Coordination in Large Multi-Modal Models"
(arXiv 2402.12058). A pure package: arrays and text in, arrays and text out.
"""

from services.vision.scaffold.affine import Affine
from services.vision.scaffold.drawing import Dot, Legibility, Overlay, draw_overlay
from services.vision.scaffold.geometry import Box, Matrix, crop_box, dot_centres, nearest_dot
from services.vision.scaffold.labels import LABEL_STYLES, LabelStyle
from services.vision.scaffold.mentions import Mention, Reading, read_text
from services.vision.scaffold.options import ImageTooSmallError, OverlayOptions
from services.vision.scaffold.perception import LookOptions, look
from services.vision.scaffold.prompts import LOCALES, MODES, PromptOptions, build_prompt, to_messages
from services.vision.scaffold.resolve import Grid, name_pixel
from services.vision.scaffold.templates import TEMPLATE_VERSION

__all__ = [
    "LABEL_STYLES",
    "LOCALES",
    "MODES",
    "TEMPLATE_VERSION",
    "Affine",
    "Box",
    "Dot",
    "Grid",
    "ImageTooSmallError",
    "LabelStyle",
    "Legibility",
    "LookOptions",
    "Matrix",
    "Mention",
    "Overlay",
    "OverlayOptions",
    "PromptOptions",
    "Reading",
    "build_prompt",
    "crop_box",
    "dot_centres",
    "draw_overlay",
    "look",
    "name_pixel",
    "nearest_dot",
    "read_text",
    "to_messages",
]
