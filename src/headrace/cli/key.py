"""`headrace key`: access keys and what each may do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.cli.options import Data, Json, find_layout, open_keyring, print_json, print_table

if TYPE_CHECKING:
    from headrace.gateway.keyring import AccessKey

app = typer.Typer(
    no_args_is_help=True,
    help="""Access keys and what each may do. Works while the node runs, and takes effect at once.

\b
    headrace key create --name alice
    headrace key create --name reader --allow 'photos-*:read,list'
    headrace key list
    headrace key revoke HR0123456789ABCDEF
""",
)


@app.command("create")
def create(
    data: Data = None,
    name: Annotated[str, typer.Option("--name", help="The user's name; keys of one name are one user.")] = "",
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", metavar="BUCKETS:ACTIONS", help="What the key may do; repeat for more rules."),
    ] = None,
    admin: Annotated[bool, typer.Option("--admin", help="May do everything, and administer the node.")] = False,
    access_key: Annotated[str, typer.Option("--access-key", help="Use this access key instead of a new one.")] = "",
    secret_key: Annotated[str, typer.Option("--secret-key", help="Use this secret instead of a new one.")] = "",
    json: Json = False,
) -> None:
    """Make an access key. Its secret is shown now and never again.

    \b
    Rules name buckets (with * and ?) or keys (bucket/prefix*) and actions: read, write, list, admin.
    The name @own stands for the buckets that the user made and those that are bound to origins; without
    --allow or --admin the key may read, write and list those.
        headrace key create --name ci --allow 'builds:read,write,list' --allow 'models/*:read'
        headrace key create --json | jq -r .secret_key
    """  # noqa: D301 - \b keeps the lines as they are
    from headrace.base.errors import Invalid
    from headrace.gateway.keyring import ADMIN_POLICY, DEFAULT_POLICY, parse_rule

    if admin and allow:
        raise Invalid("--admin allows everything; leave --allow out, or leave --admin out.")
    if bool(access_key) != bool(secret_key):
        raise Invalid("--access-key and --secret-key belong together; give both or neither.")
    policy = ADMIN_POLICY if admin else tuple(map(parse_rule, allow)) if allow else DEFAULT_POLICY
    with open_keyring(find_layout(data, create=True)) as keyring:
        made = keyring.create(name, policy, access_key=access_key, secret_key=secret_key)
    if json:
        print_json({"access_key": made.access_key, "secret_key": made.secret_key, **_facts(made)})
        return
    print(f"export AWS_ACCESS_KEY_ID={made.access_key}")
    print(f"export AWS_SECRET_ACCESS_KEY={made.secret_key}")
    typer.echo("The secret is not shown again.", err=True)


@app.command("list")
def list_keys(data: Data = None, json: Json = False) -> None:
    """List the keys in use, without their secrets."""
    with open_keyring(find_layout(data, create=False)) as keyring:
        keys = keyring.list()
    if json:
        print_json([{"access_key": key.access_key, **_facts(key)} for key in keys])
        return
    rows = [(key.access_key, key.name, _rules(key), _day(key.created_ms)) for key in keys]
    print_table(("ACCESS KEY", "NAME", "MAY", "CREATED"), rows)


@app.command("revoke")
def revoke(access_key: Annotated[str, typer.Argument(help="The access key to revoke.")], data: Data = None) -> None:
    """Take a key out of use; the next request signed with it is refused."""
    with open_keyring(find_layout(data, create=False)) as keyring:
        keyring.revoke(access_key)
    typer.echo(f"Revoked {access_key}.", err=True)


def _facts(key: AccessKey) -> dict[str, Any]:
    """What may be shown of a key at any time."""
    return {
        "name": key.name,
        "user_id": key.user_id,
        "admin": key.admin,
        "allow": [f"{rule.pattern}:{','.join(rule.actions)}" for rule in key.policy],
        "created": _day(key.created_ms),
    }


def _rules(key: AccessKey) -> str:
    return " ".join(f"{rule.pattern}:{','.join(rule.actions)}" for rule in key.policy)


def _day(milliseconds: int) -> str:
    """The UTC time of `milliseconds` since 1970 in ISO form."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(milliseconds // 1000, UTC).isoformat().replace("+00:00", "Z")
