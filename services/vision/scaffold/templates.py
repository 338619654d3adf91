"""Prompt wording per locale. Any change of a word is a new TEMPLATE_VERSION."""

from __future__ import annotations

from dataclasses import dataclass

TEMPLATE_VERSION = "scaffold-1"


@dataclass(frozen=True)
class Wording:
    """One locale. Placeholders: rows, cols, form (of a label), images (their number)."""

    one_image: str
    two_images: str
    many_images: str
    matrix: str
    naming: str
    order: str
    order_letters: str
    order_number: str
    order_permille: str
    search: str
    sequence: str
    answer_format: str
    step_by_step: str
    locate: str
    locate_format: str
    refine: str
    zoomed: str


ENGLISH = Wording(
    one_image="You see one image. A matrix of labelled dots has been drawn over it.",
    two_images=(
        "You see two images of the same scene. The first is the untouched picture; the second is "
        "the same picture with a matrix of labelled dots drawn over it."
    ),
    many_images=(
        "You see {images} images, in order. A matrix of labelled dots has been drawn over each of"
        " them, and every label begins with the number of its image."
    ),
    matrix=(
        "The dots form {rows} rows and {cols} columns. Next to each dot stands its label, written as {form}."
    ),
    naming=(
        "Whenever you speak of an important object, first give the label of the dot nearest to "
        "it, in the form {form}, and then name the object."
    ),
    order=(
        "Use the coordinates to judge where things are: x, the first number, grows from top to "
        "bottom within a column; y, the second number, grows from left to right within a row."
    ),
    order_letters=(
        "Use the labels to judge where things are: the letter advances from top to bottom, the "
        "number grows from left to right."
    ),
    order_number=(
        "Use the labels to judge where things are: the numbers run from left to right through the"
        " first row, then through the row below it, and so on."
    ),
    order_permille=(
        "Use the coordinates to judge where things are: the first number is the distance from the"
        " top edge, the second the distance from the left edge, both in thousandths of the image."
    ),
    search=("Go through the image region by region, using the dots to keep your place, before you conclude."),
    sequence=(
        "In the labels, t is the number of the image, from 1 to {images}. Reason within each "
        "image by x and y, and compare the same place in different images by t."
    ),
    answer_format="Give your final answer in double square brackets, like [[answer]].",
    step_by_step="Think it through step by step before you answer.",
    locate=(
        "Do not answer yet. Find the part of the picture that has to be seen up close to answer "
        "this question, and give the label of the dot nearest to it.\nQuestion: {question}"
    ),
    locate_format=(
        "Give only the label of that dot as your final answer, in double square brackets, like [[{example}]]."
    ),
    refine="Find this and give the label of the dot nearest to its centre: {question}",
    zoomed="One more image follows: an enlarged part of the picture around the dot {label}.",
)

GERMAN = Wording(
    one_image="Du siehst ein Bild. Darüber ist ein Raster aus beschrifteten Punkten gezeichnet.",
    two_images=(
        "Du siehst zwei Bilder derselben Szene. Das erste ist das unveränderte Bild, das zweite "
        "dasselbe Bild mit einem Raster aus beschrifteten Punkten darüber."
    ),
    many_images=(
        "Du siehst {images} Bilder der Reihe nach. Über jedes ist ein Raster aus beschrifteten "
        "Punkten gezeichnet, und jede Beschriftung beginnt mit der Nummer ihres Bildes."
    ),
    matrix=(
        "Die Punkte bilden {rows} Zeilen und {cols} Spalten. Neben jedem Punkt steht seine "
        "Beschriftung in der Form {form}."
    ),
    naming=(
        "Wenn du von einem wichtigen Gegenstand sprichst, nenne zuerst die Beschriftung des "
        "nächsten Punktes in der Form {form} und dann den Gegenstand."
    ),
    order=(
        "Beurteile Lagen anhand der Koordinaten: x, die erste Zahl, wächst in einer Spalte von "
        "oben nach unten; y, die zweite Zahl, wächst in einer Zeile von links nach rechts."
    ),
    order_letters=(
        "Beurteile Lagen anhand der Beschriftungen: Der Buchstabe läuft von oben nach unten, die "
        "Zahl wächst von links nach rechts."
    ),
    order_number=(
        "Beurteile Lagen anhand der Beschriftungen: Die Zahlen laufen von links nach rechts durch"
        " die erste Zeile, dann durch die Zeile darunter und so fort."
    ),
    order_permille=(
        "Beurteile Lagen anhand der Koordinaten: Die erste Zahl ist der Abstand vom oberen Rand, "
        "die zweite der vom linken Rand, beide in Tausendsteln des Bildes."
    ),
    search="Gehe das Bild mit Hilfe der Punkte Bereich für Bereich durch, bevor du schließt.",
    sequence=(
        "In den Beschriftungen ist t die Nummer des Bildes, von 1 bis {images}. Schließe "
        "innerhalb eines Bildes über x und y und vergleiche dieselbe Stelle in verschiedenen "
        "Bildern über t."
    ),
    answer_format="Gib die endgültige Antwort in doppelten eckigen Klammern, etwa [[Antwort]].",
    step_by_step="Denke Schritt für Schritt nach, bevor du antwortest.",
    locate=(
        "Antworte noch nicht. Finde den Teil des Bildes, den man aus der Nähe sehen muss, um "
        "diese Frage zu beantworten, und nenne die Beschriftung des nächsten Punktes.\nFrage: "
        "{question}"
    ),
    locate_format=(
        "Gib nur die Beschriftung dieses Punktes als endgültige Antwort in doppelten eckigen "
        "Klammern, etwa [[{example}]]."
    ),
    refine=(
        "Finde dies und nenne die Beschriftung des Punktes, der seiner Mitte am nächsten ist: {question}"
    ),
    zoomed="Es folgt ein weiteres Bild: ein vergrößerter Ausschnitt um den Punkt {label}.",
)

TEMPLATES: dict[str, Wording] = {"en": ENGLISH, "de": GERMAN}
