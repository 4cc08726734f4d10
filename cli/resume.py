"""`lambdaml resume`"""

from __future__ import annotations

from lambdaml.cli import _options


def resume(
    run: _options.Run,
    functions: _options.Functions = None,
    engine: _options.Engine = None,
    device: _options.Device = "auto",
    lifetime: _options.Lifetime = None,
    as_json: _options.Json = False,
) -> int:
    """Go on with a run where its log ends, until it is finished."""
    import lambdaml
    from lambdaml.cli._follow import follow

    return follow(
        run,
        lambda opened, on_event: lambdaml.resume(
            opened,
            functions=functions,
            engine=engine,
            device=device,
            lifetime_s=float("inf") if lifetime is None else lifetime,
            on_event=on_event,
        ),
        as_json=as_json,
    )
