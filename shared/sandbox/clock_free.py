"""`datetime` as the programs of the CPython child get it: all of it but the clock.

A program that read the clock would give another answer tomorrow; `db.today` is the date it has.
"""

import datetime
from types import ModuleType
from typing import Any, NoReturn


class _SameInstances(type):
    """Makes `isinstance(x, date)` true of the plain class's instances too."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls.__mro__[1])


def _no_clock(*_arguments: Any, **_keywords: Any) -> NoReturn:
    raise RuntimeError("there is no clock here; use db.today")


class _Date(datetime.date, metaclass=_SameInstances):
    """datetime.date without today."""

    today = staticmethod(_no_clock)


class _Datetime(datetime.datetime, metaclass=_SameInstances):
    """datetime.datetime without now."""

    now = today = utcnow = staticmethod(_no_clock)


def _module() -> ModuleType:
    module = ModuleType("datetime")
    module.__dict__.update({name: getattr(datetime, name) for name in datetime.__all__})
    module.__dict__.update(date=_Date, datetime=_Datetime)
    return module


MODULE = _module()
