"""One cell of the table: an entry's result on a task, as a picture and a record beside it, complete or not there."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from models.images import load_image
from photoswap.benchmark.entries import Entry
from weights.atomic import atomic

CELLS = "cells"


@dataclass(frozen=True)
class ResultCell:
    """Where a result is kept, and what it has to be of.

    made_by: all that the result follows from, as JSON gives it back; a record of anything else is no such cell.
    """

    folder: Path
    task: str
    entry: Entry
    made_by: Mapping[str, Any]

    @property
    def picture_file(self) -> Path:
        """The result."""
        return self.folder / CELLS / f"{self.task}+{self.entry.key}.png"

    @property
    def record_file(self) -> Path:
        """What is known of it; written last, so that it says the cell is done."""
        return self.picture_file.with_suffix(".json")

    def read(self) -> dict[str, Any] | None:
        """The record, None where the cell is not done.

        Raises ValueError where it was made otherwise, by another model for instance.
        """
        record = read_record(self.record_file)
        if record is None:
            return None
        wanted = _plain(self.made_by)
        if record["made_by"] != wanted:
            changed = [name for name in wanted if record["made_by"].get(name) != wanted[name]]
            raise ValueError(
                f"{self.record_file} was made with another {', '.join(changed)}: write elsewhere with --out, or begin "
                "anew with --overwrite"
            )
        return record

    def write(self, record: Mapping[str, Any], picture: Image.Image | None = None) -> None:
        """Put the cell there, or, without a picture, a record in place of the one there."""
        if picture is not None:
            with atomic(self.picture_file) as place:
                picture.save(place, format="PNG")
        write_json(self.record_file, {"task": self.task, "entry": self.entry.key, "made_by": self.made_by, **record})

    def picture(self) -> Image.Image:
        """The result of a cell that is done. Raises ValueError where it is not there."""
        return load_image(self.picture_file)


def read_record(file: Path) -> dict[str, Any] | None:
    """What a file of ours holds, None where there is none. Raises ValueError for a damaged one."""
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        raise ValueError(f"{file} is damaged: remove it, and the same command makes it again") from None
    return found


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a file, complete or not at all."""
    with atomic(file) as place:
        place.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))
