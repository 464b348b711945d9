"""Commands of the web page: run it, and say who may use it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import select

from dicomnode.commands.options import (
    DEFAULT_CONFIG,
    ConfigOption,
    JsonOption,
    admin_audit,
    console,
    local_time,
    open_node,
    print_json,
    table_of,
)
from dicomnode.errors import PermanentError
from dicomnode.logs import configure_logging
from dicomnode.processes import stop_event
from dicomnode.records.accounts import Role, UserRow, add_user, end_sessions, find_user, remove_user
from dicomnode.records.audit import Event, Subject
from dicomnode.records.passwords import hash_password

users = typer.Typer(no_args_is_help=True, help="Say who may use the web page.")

NameArgument = Annotated[str, typer.Argument(help="Name of the person.")]
PasswordFileOption = Annotated[
    Path | None,
    typer.Option("--password-file", help="Take the password from the first line of this file."),
]


def web(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Run the web page alone; `dicomnode serve` runs it too where `[web]` is configured."""
    configure_logging("web")
    settings, database = open_node(config)
    from dicomnode.web.server import run

    run(settings, database, config, stop_event())


@users.command("add")
def users_add(
    name: NameArgument,
    role: Annotated[Role, typer.Option(help="What the person may do.")],
    config: ConfigOption = DEFAULT_CONFIG,
    password_file: PasswordFileOption = None,
    no_password: Annotated[
        bool, typer.Option("--no-password", help="Only a reverse proxy can let the person in.")
    ] = False,
) -> None:
    """Let a person use the web page. Asks for the password."""
    password_hash = None if no_password else hash_password(_ask_password(password_file))
    _, database = open_node(config)
    with database.transaction() as session:
        add_user(session, name, role, password_hash)
        admin_audit().record(session, Event.USER_ADDED, Subject(), user=name, role=role.value)
    console.print(f"{name} may use the web page as {role.value}")


@users.command("change")
def users_change(
    name: NameArgument,
    config: ConfigOption = DEFAULT_CONFIG,
    role: Annotated[Role | None, typer.Option(help="What the person may do from now on.")] = None,
    password: Annotated[bool, typer.Option("--password", help="Ask for a new password.")] = False,
    password_file: PasswordFileOption = None,
) -> None:
    """Give a person another role or password; their open sessions end."""
    wanted = {"role": role is not None, "password": password or password_file is not None}
    changed = [what for what, asked in wanted.items() if asked]
    if not changed:
        raise PermanentError("nothing to change: give --role, --password or --password-file")
    password_hash = hash_password(_ask_password(password_file)) if wanted["password"] else None
    _, database = open_node(config)
    with database.transaction() as session:
        user = find_user(session, name)
        user.role = role.value if role else user.role
        user.password_hash = password_hash or user.password_hash
        end_sessions(session, name)
        admin_audit().record(session, Event.USER_CHANGED, Subject(), user=name, changed=changed)
    console.print(f"{name}: changed {' and '.join(changed)}")


@users.command("remove")
def users_remove(name: NameArgument, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Let a person use the web page no more, from this moment."""
    _, database = open_node(config)
    with database.transaction() as session:
        remove_user(session, find_user(session, name))
        admin_audit().record(session, Event.USER_REMOVED, Subject(), user=name)
    console.print(f"{name} may use the web page no more")


@users.command("list")
def users_list(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """List who may use the web page."""
    _, database = open_node(config)
    with database.snapshot() as session:
        found = list(session.scalars(select(UserRow).order_by(UserRow.name)))
    rows = [
        {
            "name": user.name,
            "role": user.role,
            "login": "password" if user.password_hash else "proxy only",
            "created_at": local_time(user.created_at),
        }
        for user in found
    ]
    if as_json:
        print_json(rows)
        return
    table = table_of("Name", "Role", "Login", "Added")
    for row in rows:
        table.add_row(*row.values())
    console.print(table)


def _ask_password(file: Path | None) -> str:
    """From a file or a prompt, never from the command line, which others can read."""
    if file is None:
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    try:
        return (file.read_text("utf-8").splitlines() or [""])[0]
    except (OSError, UnicodeDecodeError) as error:
        raise PermanentError(
            f"password file {file} cannot be read ({type(error).__name__}); "
            "name a file of text that you may read"
        ) from error
