"""The `headrace` command: one module per noun, imported light so that every call answers at once."""

from headrace.cli.app import main as main
