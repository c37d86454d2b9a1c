"""`headrace doctor`: is this machine fit, and what to change."""

from __future__ import annotations

from headrace.cli.options import ConfigFile, Data, Json, print_json


def doctor(data: Data = None, config: ConfigFile = None, json: Json = False) -> None:
    """Check kernel, limits, clocks, disks, ports and origins, and say what to change.

    \b
    Each line is ok, warn or fail. The exit status is 1 when anything failed. Nothing is changed;
    at most 64 MiB are written to each disk and removed again.
        headrace doctor
        headrace doctor --data /mnt/nvme0/headrace --json
    """  # noqa: D301 - \b keeps the lines as they are
    import asyncio

    from headrace.config.load import data_directory, load
    from headrace.serve.checks import FAIL, WARN, check_machine
    from headrace.serve.layout import Layout
    from headrace.serve.origin_checks import check_origins
    from headrace.serve.preparation import known_bindings

    settings = load({"data": data}, config=config).settings
    layout = Layout(data_directory(settings))
    checks = check_machine(settings, layout)
    own = f"http{'s' if settings.tls_cert else ''}://{settings.host}:{settings.port}"
    checks += asyncio.run(check_origins(known_bindings(settings, layout), own))
    failed = any(check.state == FAIL for check in checks)
    if json:
        print_json({"ok": not failed, "checks": [check._asdict() for check in checks]})
    else:
        for check in checks:
            print(f"{check.state:<4}  {check.name}: {check.found}")
            if check.advice:
                print(f"      -> {check.advice}")
        warned = sum(check.state == WARN for check in checks)
        ending = (
            "something must be changed." if failed else f"{warned} things could be better." if warned else "all well."
        )
        print(f"{len(checks)} checks: {ending}")
    if failed:
        raise SystemExit(1)
