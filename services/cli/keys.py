"""`triptych keys`: makes, lists and removes API keys; a running front door takes changes over by itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
import yaml

from services.cli.output import EXIT_OK, Output
from services.core.errors import ConfigError, NotFoundError
from services.core.seeds import new_api_key, new_cluster_secret, new_key_id
from services.frontdoor.auth import hash_key, read_keys
from services.frontdoor.config import KeyEntry, KeysFile, Role

keys_app = typer.Typer(
    no_args_is_help=True,
    help=(
        "Make, list and remove API keys.\n\n"
        "Only hashes are kept. Switch keys on with frontdoor.auth.keys_file and frontdoor.auth.secret_file; a running "
        "front door notices changes within a second."
    ),
)

FileOption = Annotated[Path, typer.Option("--file", help="The file of keys.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
DEFAULT_FILE = Path("~/.triptych/keys.yaml")


@keys_app.command()
def add(
    tenant: Annotated[str, typer.Option("--tenant", help="Whose key it is; tenants share no cached prefixes.")],
    role: Annotated[Role, typer.Option("--role", help="user generates; admin also drains, scales and watches.")] = (
        Role.USER
    ),
    file: FileOption = DEFAULT_FILE,
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it: once, for it is not kept. Makes the files where they are missing."""
    file = file.expanduser()
    keys = read_keys(file) if file.exists() else KeysFile()
    key = new_api_key()
    try:
        entry = KeyEntry(id=new_key_id(), sha256=hash_key(key), tenant=tenant, role=role)
    except ValueError:
        raise ConfigError("--tenant", tenant, "write 1 to 64 of the characters A-Z a-z 0-9 . _ -") from None
    secret_file = file.with_suffix(".secret")
    if not secret_file.exists():
        write_private(secret_file, new_cluster_secret() + "\n")
    save(file, keys.model_copy(update={"keys": (*keys.keys, entry)}))
    output = Output()
    if as_json:
        output.json({"id": entry.id, "key": key, "tenant": tenant, "role": role.value, "file": str(file)})
    else:
        output.line(key)
        output.note(f"key {entry.id} of tenant {tenant}, role {role.value}; its hash is in {file}")
        output.note(f"frontdoor.auth: {{keys_file: {file}, secret_file: {secret_file}}}")
    raise typer.Exit(EXIT_OK)


@keys_app.command("list")
def show(file: FileOption = DEFAULT_FILE, as_json: JsonOption = False) -> None:
    """List the keys: id, tenant and role."""
    output = Output()
    rows = [{"id": key.id, "tenant": key.tenant, "role": key.role.value} for key in read_keys(file.expanduser()).keys]
    if as_json:
        output.json(rows)
    for row in [] if as_json else rows:
        output.line(f"{row['id']}  {row['tenant']}  {row['role']}")
    raise typer.Exit(EXIT_OK)


@keys_app.command()
def remove(
    key_id: Annotated[str, typer.Argument(help="Id of the key, from `triptych keys list`.")],
    file: FileOption = DEFAULT_FILE,
) -> None:
    """Take a key back; calls that run go on, new ones are refused."""
    file = file.expanduser()
    keys = read_keys(file)
    left = tuple(key for key in keys.keys if key.id != key_id)
    if len(left) == len(keys.keys):
        raise NotFoundError(f"there is no key {key_id} in {file}; see `triptych keys list`", kind="key", name=key_id)
    save(file, keys.model_copy(update={"keys": left}))
    Output().note(f"key {key_id} is not accepted any more")
    raise typer.Exit(EXIT_OK)


def save(file: Path, keys: KeysFile) -> None:
    """Write the file of keys at once or not at all."""
    data = keys.model_dump(mode="json", exclude_defaults=True)
    write_private(file, yaml.safe_dump({"keys": [], **data}, sort_keys=False))


def write_private(file: Path, text: str) -> None:
    """Replace a file; nobody but its owner may read it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        stream.write(text)
    part.replace(file)
