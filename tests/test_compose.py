"""docker-compose.yml and the Dockerfile, without a Docker engine: what they say is checked, and what they start is started here."""

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
import yaml
from typer.main import get_command

from service.settings import Settings
from temper.cli import app
from tests.patience import until
from tests.system.desk import Desk
from tests.system.servers import Absent, Postgres, Server, free_port

ROOT = Path(__file__).parent.parent
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
STEPS = [line.split(maxsplit=1) for line in re.sub(r"\\\n\s*", "", DOCKERFILE).splitlines() if line and not line.startswith("#")]
PASSWORDS = ("POSTGRES_PASSWORD", "REDIS_PASSWORD")
OURS = ("migrate", "api", "worker", "gpu-worker")
THEIRS = ("postgres", "redis")
SPEC = {"name": "digits", "dataset": "digits", "epochs": 1, "architecture": {"type": "mlp", "hidden": [8]}}


def steps(name: str) -> list[str]:
    return [words for word, words in STEPS if word == name]


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def test_it_has_these_services_and_one_of_them_on_demand() -> None:
    assert {*SERVICES} == {*OURS, *THEIRS}
    assert {name: service.get("profiles") for name, service in SERVICES.items() if "profiles" in service} == {"gpu-worker": ["gpu"]}
    assert SERVICES["gpu-worker"]["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]


@pytest.mark.parametrize("name", OURS)
def test_a_command_is_one_that_temper_has(name: str) -> None:
    for words in (SERVICES[name]["command"], SERVICES[name]["healthcheck"].get("test", ["CMD"])[1:]):
        command: Any = get_command(app)
        for word in words[1:]:
            if hasattr(command, "commands"):
                command = command.commands[word]
            elif word.startswith("--"):
                assert word in {option for parameter in command.params for option in parameter.opts}, words
        assert words == [] or words[0] == "temper"


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting(name: str) -> None:
    told = SERVICES[name]["environment"]
    assert {f"TEMPER_{field.upper()}" for field in Settings.model_fields} >= {each for each in told if each.startswith("TEMPER_")}
    assert {"TEMPER_DATABASE_URL", "TEMPER_BROKER_URL", "TEMPER_STORAGE_URL"} <= told.keys()
    others = {each for each in told if not each.startswith("TEMPER_")}
    assert all(re.fullmatch(r"AWS_[A-Z0-9_]+", each) and told[each] is None for each in others)


@pytest.mark.parametrize("name", OURS)
def test_our_processes_have_no_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["user"].split(":")[0] != "0"
    assert service["user"] in steps("USER")
    assert (service["read_only"], service["cap_drop"], service["security_opt"]) == (True, ["ALL"], ["no-new-privileges:true"])
    assert service["volumes"] == ["files:/var/lib/temper"]  # what one writes the other reads
    assert not {"privileged", "pid", "network_mode", "cap_add"} & service.keys()


def test_nothing_but_the_api_is_published_and_that_to_this_machine() -> None:
    assert {name: service["ports"] for name, service in SERVICES.items() if "ports" in service} == {"api": ["127.0.0.1:8000:8000"]}
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    assert [SERVICES[name]["networks"] for name in THEIRS] == [["inside"], ["inside"]]


def test_a_password_is_required_and_none_is_written_down() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    asked = re.findall(r"\$\{(\w+)(:\?[^}]+)?}", text)
    assert {name for name, _ in asked} == {*PASSWORDS}
    assert all(demanded for _, demanded in asked)
    for service in SERVICES.values():
        for name, value in service["environment"].items():
            assert "PASSWORD" not in name or value.startswith("${POSTGRES_PASSWORD:?")
    assert SERVICES["redis"]["command"][-2:] == ["--requirepass", SERVICES["redis"]["environment"]["REDISCLI_AUTH"]]


def test_the_tables_are_made_before_anything_starts() -> None:
    assert SERVICES["migrate"]["command"] == ["temper", "db", "upgrade"]
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert SERVICES["migrate"]["restart"] == "no"
    for name in ("api", "worker", "gpu-worker"):
        waits = SERVICES[name]["depends_on"]
        assert waits["migrate"] == {"condition": "service_completed_successfully"}
        assert waits["redis"] == {"condition": "service_healthy"}
        assert SERVICES[name]["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "migrate"])
def test_every_service_that_stays_is_watched(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] == "CMD"
    assert 0 < seconds(check["timeout"]) <= seconds(check["interval"])


def test_every_volume_and_network_is_declared() -> None:
    for service in SERVICES.values():
        assert {volume.split(":")[0] for volume in service["volumes"]} <= COMPOSE["volumes"].keys()
        assert {*service["networks"]} <= COMPOSE["networks"].keys()


def test_images_are_pinned() -> None:
    assert len(steps("FROM")) == 2
    tags = [words.split()[0] for words in steps("FROM")] + [SERVICES[name]["image"] for name in THEIRS]
    for tag in tags:
        assert re.fullmatch(r"[a-z]+:\d+\.\d+(\.\d+)?(-\w+)+", tag), tag
    minimum = re.search(r"\d+\.\d+", tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"])
    assert minimum is not None
    assert tags[0].startswith(f"python:{minimum[0]}.")  # what the tests run on
    assert int(re.findall(r"\d+", SERVICES["postgres"]["image"])[0]) >= 15


def test_the_image_is_made_of_what_is_there() -> None:
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    let_in = {line[1:] for line in ignored if line.startswith("!")}
    copied = {source for words in steps("COPY") if not words.startswith("--from") for source in words.split()[:-1]}
    assert ignored[0] == "*"
    assert copied == let_in
    assert all((ROOT / source).exists() for source in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert {*project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"], project["project"]["readme"]} <= copied
    extras = re.search(r"'\.\[([\w,]+)]'", DOCKERFILE)
    assert extras is not None
    assert {*extras[1].split(",")} == {"server", "s3"} <= project["project"]["optional-dependencies"].keys()
    assert "--constraint constraints.txt" in DOCKERFILE


def test_one_argument_decides_which_torch_an_image_has() -> None:
    (argument,) = steps("ARG")
    assert argument in (ROOT / "Makefile").read_text().replace("PIP_EXTRA_INDEX_URL", "TORCH_INDEX")
    assert 'PIP_EXTRA_INDEX_URL="$TORCH_INDEX"' in DOCKERFILE
    assert SERVICES["gpu-worker"]["build"] == {"context": ".", "args": {"TORCH_INDEX": ""}}
    assert SERVICES["gpu-worker"]["image"] != SERVICES["worker"]["image"]
    assert steps("USER") == ["10001:10001"]
    assert steps("HEALTHCHECK")[0].endswith('CMD ["temper", "api", "--check"]')


class Broker(Server):
    """The Redis of the file, by its own command and health check."""

    def __init__(self, place: "Host", folder: Path) -> None:
        super().__init__([*place.words(SERVICES["redis"]["command"]), "--dir", str(folder)], place.ports["6379"], log=folder / "redis.log")
        self.place = place

    def answers(self) -> bool:
        return self.place.healthy("redis")


class Host:
    """This machine in the containers' place: their commands and variables, with its own ports for theirs."""

    def __init__(self, folder: Path, postgres: Postgres) -> None:
        self.folder = folder
        self.password = secrets.token_hex(8)
        self.ports = {"5432": postgres.port, "6379": free_port(), "8000": free_port()}

    def put(self, text: str) -> str:
        """A word of the file as it is here."""
        text = re.sub(r"\$\{\w+:\?[^}]+}", self.password, text)
        text = re.sub(r"@(postgres|redis):", "@127.0.0.1:", text)
        return re.sub(r"(?<=:)\d{4}\b|^\d{4}$", lambda found: str(self.ports[found[0]]), text)

    def words(self, command: list[str]) -> list[str]:
        return [self.put(word) for word in command]

    def told(self, name: str) -> dict[str, str]:
        """The environment of that service."""
        given = {key: self.put(value) for key, value in SERVICES[name].get("environment", {}).items() if value is not None}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {"HOME": str(self.folder), "TEMPER_DATA": str(self.folder / "data"), "OMP_NUM_THREADS": "1", **given, "PATH": path}

    def run(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, env=self.told(name), cwd=self.folder, capture_output=True, text=True, timeout=60, check=False)

    def start(self, name: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                self.words(SERVICES[name]["command"]), env=self.told(name), cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )

    def healthy(self, name: str) -> bool:
        return self.run(name, *self.words(SERVICES[name]["healthcheck"]["test"][1:])).returncode == 0


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    if missing := [name for name in ("redis-server", "redis-cli", "pg_isready") if shutil.which(name) is None]:
        pytest.skip(f"no {', '.join(missing)} on the path")
    try:
        postgres = Postgres()
    except Absent as reason:
        pytest.skip(str(reason))
    postgres.start()
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("CREATE ROLE temper LOGIN")  # what the image does with POSTGRES_USER and POSTGRES_DB
        connection.execute("CREATE DATABASE temper OWNER temper")
    yield Host(tmp_path, postgres)
    postgres.close()


def test_what_the_file_starts_is_a_service(host: Host) -> None:
    assert host.healthy("postgres")
    assert not host.healthy("redis")
    broker = Broker(host, host.folder)
    broker.start()
    processes: list[subprocess.Popen[bytes]] = []
    try:
        port = str(host.ports["6379"])
        assert host.run("redis", "redis-cli", "-p", port, "config", "get", "maxmemory-policy").stdout.split()[-1] == "noeviction"
        assert "NOAUTH" in host.run("migrate", "redis-cli", "-p", port, "ping").stdout
        migrated = host.run("migrate", *host.words(SERVICES["migrate"]["command"]))
        assert migrated.returncode == 0, migrated.stderr
        assert not host.healthy("api")
        assert not host.healthy("worker")
        processes = [host.start("api"), host.start("worker")]
        until(lambda: host.healthy("api") and host.healthy("worker"))
        key = host.run("api", "temper", "keys", "create", "tests", "--scope", "admin").stdout.strip()
        url = f"http://127.0.0.1:{host.ports['8000']}"
        assert httpx2.get(f"{url}/api/v1/datasets").status_code == 401
        with httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
            assert Desk(client).run(SPEC)["state"] == "succeeded"
        for process, name in zip(processes, ("api", "worker"), strict=True):
            process.terminate()
            assert process.wait(seconds(SERVICES[name]["stop_grace_period"])) in (0, -signal.SIGTERM)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        broker.end()
