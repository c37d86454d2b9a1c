"""`headrace version`."""

from __future__ import annotations

from headrace.cli.options import Json, print_json


def version(json: Json = False) -> None:
    """Print the version of headrace and of Python."""
    import platform

    from headrace import __version__

    if json:
        print_json({"headrace": __version__, "python": platform.python_version(), "kernel": platform.release()})
    else:
        print(f"headrace {__version__} (Python {platform.python_version()}, Linux {platform.release()})")
