"""Container files: what they name exists in the program and fits together. No container is built here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
import yaml

import dicomnode.__main__
from dicomnode.config import load_settings
from dicomnode.selftest.temporary import free_port
from dicomnode.settings.database import DATABASE_PASSWORD
from dicomnode.settings.node import Settings
from inference.registry import find_bundles
from tests.dicomnode.parts import image, peer_answering, save, wait_until
from tests.real_parts import require_program

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose"
CONTAINERFILE = (DEPLOY / "Containerfile").read_text()


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load((COMPOSE / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_settings(COMPOSE / "node.toml")


def instructions(name: str) -> list[str]:
    joined = CONTAINERFILE.replace("\\\n", " ")
    return re.findall(rf"^{name} (.*)$", joined, re.M)


@pytest.mark.real_parts
def test_hadolint_finds_nothing() -> None:
    checked = subprocess.run(
        [require_program("hadolint"), DEPLOY / "Containerfile"], capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout) == (0, "")


def test_the_compose_file_fits_its_schema() -> None:
    program = [sys.executable, "-m", "check_jsonschema"]
    arguments = ["--builtin-schema", "vendor.compose-spec", str(COMPOSE / "compose.yaml")]
    checked = subprocess.run([*program, *arguments], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_what_is_copied_is_there_and_not_ignored() -> None:
    sources = [part for line in instructions("COPY") if "--from" not in line for part in line.split()[:-1]]
    assert "dicomnode" in sources
    ignored = (ROOT / ".containerignore").read_text().splitlines()
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignored, source


def test_the_command_exists_and_torch_is_the_version_of_the_project() -> None:
    (command,) = [json.loads(line) for line in instructions("CMD") if line.startswith('["serve')]
    assert command[0] in typer.main.get_command(dicomnode.__main__.app).commands  # type: ignore[attr-defined]
    (torch,) = re.findall(r"^ARG TORCH=(.*)$", CONTAINERFILE, re.M)
    assert f'"{torch}"' in (ROOT / "pyproject.toml").read_text()


def test_paths_and_ports_of_image_and_compose_file_are_those_of_the_configuration(
    compose: Any, settings: Settings
) -> None:
    assert settings.web is not None
    node = compose["services"]["node"]
    assert instructions("EXPOSE") == [f"{settings.node.port} {settings.web.port}"]
    assert node["ports"] == [f"{settings.node.port}:{settings.node.port}"]
    assert f":{settings.web.port}/readyz" in CONTAINERFILE
    mounts = dict(volume.split(":")[:2] for volume in node["volumes"])
    assert mounts["node-data"] == str(settings.node.data) == instructions("VOLUME")[0]
    assert f"DICOMNODE_CONFIG={mounts['./node.toml']}" in CONTAINERFILE
    assert f"node:{settings.web.port}" in compose["services"]["proxy"]["command"]
    (network,) = compose["networks"]["default"]["ipam"]["config"]
    assert settings.web.proxies == (network["subnet"],)
    assert f"node:{settings.web.port}" in (DEPLOY / "monitoring" / "prometheus.yml").read_text()
    assert instructions("COPY")[-1] == f"config/models {settings.models.folder}"


def test_the_node_finds_the_database(
    compose: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, node = compose["services"]["database"], compose["services"]["node"]
    monkeypatch.setenv(DATABASE_PASSWORD, "secret")
    address = settings.database.address(Path("unused"))
    assert address.username == database["environment"]["POSTGRES_USER"]
    assert address.database == database["environment"]["POSTGRES_DB"]
    assert (address.query["host"], address.password) == ("database", "secret")
    assert node["environment"][DATABASE_PASSWORD] == database["environment"]["POSTGRES_PASSWORD"]
    assert node["depends_on"] == {"database": {"condition": "service_healthy"}}


def test_the_image_has_the_driver_of_the_database() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (chosen,) = re.findall(r"^ARG EXTRAS=(.*)$", CONTAINERFILE, re.M)
    assert any(wanted.startswith("psycopg") for extra in chosen.split(",") for wanted in extras[extra])


def test_every_mounted_file_is_there(compose: Any) -> None:
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (COMPOSE / source).exists(), source


def test_node_and_pacs_know_each_other(compose: Any, settings: Settings) -> None:
    pacs = json.loads((COMPOSE / "orthanc.json").read_text())
    (peer,) = settings.peer
    assert (peer.ae_title, peer.port) == (pacs["DicomAet"], pacs["DicomPort"])
    assert pacs["DicomModalities"]["NODE"] == [settings.node.ae_title, "node", settings.node.port]
    assert {peer.host, "node"} <= set(compose["services"])
    assert pacs["LuaScripts"] == ["/etc/orthanc/forward.lua"]


def test_every_route_of_the_example_has_a_shipped_model(settings: Settings) -> None:
    names = find_bundles(ROOT / "config" / "models").names
    assert {route.model for route in settings.route} <= set(names)


@pytest.mark.slow
@pytest.mark.real_parts
def test_the_rule_of_the_pacs_forwards_images_and_not_our_results(tmp_path: Path) -> None:
    """With the real program; only addresses and waiting times differ from what is shipped."""
    http_port = free_port()
    images = [image(SOPInstanceUID=f"1.2.{number}", SeriesInstanceUID="1.2.3.4.5") for number in range(2)]
    report = image(SOPInstanceUID="1.2.9", SeriesInstanceUID="1.2.3.4.9", Modality="SR")
    files = [save(found, tmp_path / f"{number}.dcm") for number, found in enumerate([*images, report])]
    with peer_answering() as node:
        pacs = json.loads((COMPOSE / "orthanc.json").read_text()) | {
            "DicomPort": free_port(), "HttpPort": http_port, "StableAge": 4,
            "StorageDirectory": str(tmp_path / "pacs"), "IndexDirectory": str(tmp_path / "pacs"),
            "DicomModalities": {"NODE": ["PACS", "127.0.0.1", node.port]},
            "LuaScripts": [str(COMPOSE / "forward.lua")],
        }  # fmt: skip
        (tmp_path / "orthanc.json").write_text(json.dumps(pacs))
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                [require_program("Orthanc"), tmp_path / "orthanc.json"], stdout=log, stderr=log
            )
        try:
            url = f"http://127.0.0.1:{http_port}"
            wait_until(lambda: answers(url), 60.0)
            for path in reversed(files):  # the report is stable first
                httpx.post(f"{url}/instances", content=path.read_bytes()).raise_for_status()
            wait_until(lambda: len(stable_series(url)) == 2 and len(node.received) >= 2, 120.0)
            assert sorted(node.received) == ["1.2.0", "1.2.1"]
        finally:
            process.terminate()
            process.wait(30)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/system").is_success
    except httpx.TransportError:
        return False


def stable_series(url: str) -> list[str]:
    changes = httpx.get(f"{url}/changes").json()["Changes"]
    return [change["ID"] for change in changes if change["ChangeType"] == "StableSeries"]
