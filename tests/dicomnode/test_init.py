"""`dicomnode init`: the configuration that it writes holds, whatever was answered, and never replaces one."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dicomnode.__main__ import app
from dicomnode.config import load_settings
from dicomnode.errors import PermanentError
from dicomnode.selftest.bundles import write_bundle

SHIPPED = Path(__file__).parents[2] / "config" / "models"


def run(config: Path, *arguments: str, said: str | None = None) -> Result:
    result = CliRunner().invoke(app, ["init", "--config", str(config), *arguments], input=said)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def options(**answers: str) -> list[str]:
    given = {
        "ae_title": "NODE1", "port": "11113", "data": "data", "models": "models", "pacs_ae_title": "MAINPACS",
        "pacs_host": "pacs.example.org", "pacs_port": "104",
    } | answers  # fmt: skip
    named = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)]
    return [*named, "--no-count-instances"]


def test_the_answers_to_the_questions_are_what_is_loaded(tmp_path: Path) -> None:
    config = tmp_path / "etc" / "node.toml"
    write_bundle(tmp_path / "etc" / "bundles" / "threshold")
    said = "NODE1\n11113\n/srv/node\nbundles\nMAINPACS\npacs.example.org\n104\ny\n"
    told = run(config, said=said)
    assert told.exit_code == 0, told.output
    assert "next: dicomnode check --config" in told.output
    settings = load_settings(config)
    assert (settings.node.ae_title, settings.node.port) == ("NODE1", 11113)
    assert settings.node.data == Path("/srv/node")
    peer = settings.peers["MAINPACS"]
    assert (peer.host, peer.port, peer.may_send, peer.count_instances) == (
        "pacs.example.org",
        104,
        True,
        True,
    )
    (route,) = settings.route
    assert (route.model, route.destinations, route.when.modality) == ("threshold", ("MAINPACS",), "CT")
    assert stat.S_IMODE(config.stat().st_mode) == 0o640
    assert [path.name for path in config.parent.iterdir() if path.is_file()] == ["node.toml"]


def test_scripts_give_every_answer_as_an_option(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    assert run(config, *options()).exit_code == 0
    settings = load_settings(config)
    assert settings.node.data == tmp_path / "data"
    assert settings.route == ()


def test_the_shipped_models_get_routes_by_their_own_hints(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    run(config, *options(models=str(SHIPPED)))
    routes = {route.model: route for route in load_settings(config).route}
    assert set(routes) == {"ct-lung-nodule", "mr-brain-tumour", "us-breast-lesion"}
    assert routes["mr-brain-tumour"].when.contrast is True
    assert routes["ct-lung-nodule"].when.body_part_examined == "chest|thorax|lung"
    assert routes["us-breast-lesion"].select == "all"
    assert "# mr-hippocampus is draft: it does not run yet." in config.read_text()


def test_a_file_that_is_there_is_never_replaced(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text("mine")
    for arguments in (options(), []):  # it is said before the first question
        with pytest.raises(PermanentError, match="is there already; change it by hand"):
            run(config, *arguments, said="")
    assert config.read_text() == "mine"


def test_a_file_that_cannot_be_written_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config = tmp_path / "file" / "etc" / "node.toml"
    with pytest.raises(
        PermanentError, match=r"node\.toml cannot be written \(Not a directory\); name another"
    ):
        run(config, *options())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ({"ae_title": "A" * 17}, "node.ae_title"),
        ({"ae_title": "A\\B"}, "node.ae_title"),
        ({"port": "70000"}, "node.port"),
        ({"pacs_port": "0"}, r"peer\[1\].port"),
    ],
)
def test_an_answer_that_does_not_hold_is_named_and_nothing_is_written(
    tmp_path: Path, answers: dict[str, str], says: str
) -> None:
    config = tmp_path / "node.toml"
    with pytest.raises(PermanentError, match=says):
        run(config, *options(**answers))
    assert list(tmp_path.iterdir()) == []


def test_answers_cannot_break_out_of_their_place(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    host = 'a"\n[[route]]\nname = "x'
    run(config, *options(pacs_host=host))
    assert load_settings(config).peers["MAINPACS"].host == host
