"""`headrace config`: settings and where each came from."""

from __future__ import annotations

import typer

from headrace.cli.options import ConfigFile, Data, Json, print_json, print_table

app = typer.Typer(
    no_args_is_help=True,
    help="""Settings: file < environment < flags.

\b
    headrace config show
    HEADRACE_PORT=9001 headrace config show --json
""",
)


@app.command("show")
def show(data: Data = None, config: ConfigFile = None, json: Json = False) -> None:
    """Print every setting with its value and where the value came from."""
    from headrace.config.load import load
    from headrace.config.settings import SECRETS, describe

    settings, sources = load({"data": data}, config=config)
    values = {
        item.name: "(hidden)" if item.name in SECRETS and getattr(settings, item.name) else getattr(settings, item.name)
        for item in describe()
    }
    if json:
        print_json(
            {
                item.name: {"value": values[item.name], "source": sources[item.name], "meaning": item.sentence}
                for item in describe()
            }
        )
        return
    print_table(("SETTING", "VALUE", "FROM"), [(name, _text(value), sources[name]) for name, value in values.items()])


@app.callback()
def group() -> None:
    """Keep `show` a command of its own while it is the only one."""


def _text(value: object) -> str:
    """A value as a person reads it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ", ".join(value) or "-"
    return str(value) or "-"
