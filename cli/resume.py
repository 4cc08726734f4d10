"""`lambdaml resume`"""

from __future__ import annotations

from lambdaml.cli import _caps, _options


def resume(
    run: _options.Run,
    functions: _options.Functions = None,
    engine: _options.Engine = None,
    device: _options.Device = "auto",
    lifetime: _options.Lifetime = None,
    address: _options.Address = None,
    num_cpus_per_function: _options.Cpus = None,
    num_gpus_per_function: _options.Gpus = None,
    memory_per_function: _options.Memory = None,
    resource_per_function: _options.Resources = None,
    budget: _caps.Budget = None,
    deadline: _caps.Deadline = None,
    max_requests: _caps.MaxRequests = None,
    platform: _caps.As = None,
    store_as: _caps.StoreAs = None,
    as_json: _options.Json = False,
) -> int:
    """Go on with a run where its log ends, until it is finished."""
    import lambdaml
    from lambdaml.cli._follow import follow

    options = _options.engine_options(
        address, num_cpus_per_function, num_gpus_per_function, memory_per_function, resource_per_function
    )
    cap = _caps.caps(run, budget, deadline, max_requests, platform, store_as)
    return follow(
        run,
        lambda opened, on_event: lambdaml.resume(
            opened,
            functions=functions,
            engine=engine,
            engine_options=options,
            device=device,
            lifetime_s=float("inf") if lifetime is None else lifetime,
            cap=cap,
            on_event=on_event,
        ),
        as_json=as_json,
    )
