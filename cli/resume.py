"""The verb `lambdaml resume`."""

from __future__ import annotations

import typer

from lambdaml.cli import _caps, _options


def resume(
    context: typer.Context,
    run: _options.Run,
    functions: _options.Functions = None,
    engine: _options.Engine = None,
    device: _options.Device = "auto",
    lifetime_s: _options.Lifetime = None,
    address: _options.Address = None,
    cpus: _options.Cpus = None,
    gpus: _options.Gpus = None,
    memory: _options.Memory = None,
    resources: _options.Resources = None,
    function: _options.LambdaFunction = None,
    function_memory: _options.LambdaMemory = None,
    region: _options.Region = None,
    endpoint_url: _options.EndpointURL = None,
    budget: _caps.Budget = None,
    deadline: _caps.Deadline = None,
    max_requests: _caps.MaxRequests = None,
    platform: _caps.As = None,
    store_as: _caps.StoreAs = None,
    as_json: _options.Json = False,
) -> int:
    """Continue a run from the end of its log until it is finished."""
    import lambdaml
    from lambdaml.cli._follow import follow
    from lambdaml.options import LaunchOptions

    cap = _caps.caps(run, budget, deadline, max_requests, platform, store_as)
    given = _options.asked(context, LaunchOptions, cap=cap).keywords()
    return follow(run, lambda opened, on_event: lambdaml.resume(opened, **given | {"on_event": on_event}), as_json)
