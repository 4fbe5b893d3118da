"""What people keep in files: specs and rows that are read, arrays that are written."""

import csv
import json
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

MISSING = frozenset({"", "NA", "NaN"})


def read_spec(place: str) -> dict[str, Any]:
    """The spec in a JSON, TOML or YAML file, or as JSON on standard input for `-`."""
    try:
        text = sys.stdin.read() if place == "-" else Path(place).read_text()
        spec = _parse(Path(place).suffix, text)
    except OSError as error:
        raise typer.BadParameter(f"{place}: {error.strerror}") from error
    except ValueError as error:
        raise typer.BadParameter(f"{place}: {error}") from error
    if not isinstance(spec, dict):
        raise typer.BadParameter(f"{place} does not hold an object")
    return spec


def _parse(suffix: str, text: str) -> Any:
    if suffix == ".toml":
        return tomllib.loads(text)
    if suffix in {".yaml", ".yml"}:
        try:
            import yaml
        except ImportError as error:
            raise ValueError("YAML needs PyYAML (pip install pyyaml); JSON and TOML are read without it") from error
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(str(error)) from error
    return json.loads(text)


def read_rows(path: Path, inputs: Sequence[Mapping[str, Any]]) -> Any:
    """The rows in a JSON, CSV, NPY or NPZ file; a CSV's cells become what the model's `inputs` say."""
    try:
        if path.suffix == ".csv":
            return _read_csv(path, inputs)
        if path.suffix in {".npy", ".npz"}:
            import numpy as np

            array = np.load(path, allow_pickle=False)
            return array["x"] if path.suffix == ".npz" else array
        return json.loads(path.read_text())
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError) as error:
        raise typer.BadParameter(f"{path}: {error}") from error


def _read_csv(path: Path, inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    numeric = {field["name"] for field in inputs if field.get("kind") == "numeric"}
    names = {field["name"] for field in inputs}
    with path.open(newline="", encoding="utf-8-sig") as stream:
        return [
            {name: _value(cell, name in numeric) for name, cell in row.items() if not names or name in names}
            for row in csv.DictReader(stream)
        ]  # fmt: skip


def _value(cell: str, number: bool) -> float | str | None:
    if cell.strip() in MISSING:
        return None
    return float(cell) if number else cell


def save_arrays(path: Path, **arrays: Any) -> None:
    """Writes arrays by name as an NPZ file of exactly that path."""
    import numpy as np

    try:
        with path.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}") from error
