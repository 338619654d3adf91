"""The configuration page says what the code reads."""

from deploy.reference import PAGE, render, settings_classes


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run: python -m deploy.reference"


def test_every_setting_says_what_it_is() -> None:
    silent = [
        f"{title}.{name}"
        for title, kind in settings_classes().items()
        for name, field in kind.model_fields.items()
        if not field.description and name not in ("log_level", "log_format")
    ]
    assert silent == []
