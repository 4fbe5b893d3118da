"""The command line: its start, its exit codes, what it reads and prints."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer

from temper.cli.files import read_rows, read_spec
from temper.cli.output import Format, show

NOBODY = "http://127.0.0.1:9"


def temper(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "temper", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=250, env={**os.environ, **environment})


def test_help_is_quick_and_names_every_command() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    answer = temper("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert answer.returncode == 0
    running, asking = ("up", "api", "worker", "db", "demo"), ("predict", "attack", "project", "models", "datasets")
    for command in (*running, "train", "jobs", "watch", "logs", *asking):
        assert f"\n  {command} " in answer.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.4


@pytest.mark.parametrize("module", ["temper.cli", "temper.client", "temper.embedded.up"])
def test_nothing_of_the_server_is_imported(module: str) -> None:
    code = f"import sys, {module}; print(*(name for name in sys.modules if '.' not in name))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "fastapi", "sqlalchemy", "pydantic", "celery", "pyarrow", "sklearn", "service"} & {*loaded}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--version",), 0, ""),
        (("up", "--host", "0.0.0.0"), 1, "loopback"),
        (("up", "--port", "70000"), 2, "65535"),
        (("train", "nowhere.json"), 2, "nowhere.json"),
        (("predict", "digits"), 2, "--dataset"),
        (("predict", "digits", "--dataset", "digits", "--rows", "x"), 2, "--rows"),
        (("fly",), 2, "fly"),
    ],
)
def test_exit_codes_without_a_service(arguments: tuple[str, ...], code: int, words: str) -> None:
    answer = temper(*arguments)
    assert answer.returncode == code
    assert words in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_spec_is_json_toml_or_yaml(tmp_path: Path) -> None:
    spec = {"dataset": "digits", "architecture": {"type": "mlp", "hidden": [8]}}
    texts = {
        "json": json.dumps(spec),
        "toml": 'dataset = "digits"\narchitecture = {type = "mlp", hidden = [8]}',
        "yaml": "dataset: digits\narchitecture: {type: mlp, hidden: [8]}",
    }
    for suffix, text in texts.items():
        (tmp_path / f"spec.{suffix}").write_text(text)
        assert read_spec(str(tmp_path / f"spec.{suffix}")) == spec
        (tmp_path / f"spec.{suffix}").write_text("[")
        with pytest.raises(typer.BadParameter, match=f"spec.{suffix}: "):
            read_spec(str(tmp_path / f"spec.{suffix}"))


def test_rows_are_read_as_the_model_takes_them(tmp_path: Path) -> None:
    inputs = [{"name": "age", "kind": "numeric"}, {"name": "zip", "kind": "categorical"}]
    (tmp_path / "rows.csv").write_text("age,zip,target\n1.5,007,x\nNA,,y\n")
    assert read_rows(tmp_path / "rows.csv", inputs) == [{"age": 1.5, "zip": "007"}, {"age": None, "zip": None}]
    np.save(tmp_path / "rows.npy", np.eye(2))
    np.savez(tmp_path / "rows.npz", x=np.eye(3))
    assert read_rows(tmp_path / "rows.npy", inputs).shape == (2, 2)
    assert read_rows(tmp_path / "rows.npz", inputs).shape == (3, 3)
    (tmp_path / "rows.json").write_text("[[1, 2]]")
    assert read_rows(tmp_path / "rows.json", inputs) == [[1, 2]]
    (tmp_path / "rows.csv").write_text("age\nold\n")
    with pytest.raises(typer.BadParameter, match="old"):
        read_rows(tmp_path / "rows.csv", inputs)


def test_data_is_printed_in_four_forms(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": "a", "best": 0.123456789, "name": "=1+1", "more": [1]}, {"id": "b", "best": -2.5e-07, "name": None, "more": []}]
    show(rows, ("id", "best", "name"), Format.ids)
    assert capsys.readouterr().out == "a\nb\n"
    show(rows, ("id", "best", "name"), Format.csv)
    assert capsys.readouterr().out == "id,best,name\na,0.123457,'=1+1\nb,-2.5e-07,\n"
    show(rows, ("id", "best", "name"), Format.table)
    assert capsys.readouterr().out == "id  best      name\na   0.123457  =1+1\nb   -2.5e-07\n"
    show(rows, ("id",), Format.json)
    assert json.loads(capsys.readouterr().out) == rows
    show([], ("id",), Format.ids)
    assert capsys.readouterr().out == ""
