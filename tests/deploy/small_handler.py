"""A handler for tests of the Lambda that runs here: it does what its event says."""

import os
import time
from pathlib import Path
from typing import Any

import boto3


def handler(event: dict[str, Any], context: Any) -> Any:
    held = b""
    if "note" in event:
        with Path(event["note"]).open("a") as file:
            file.write(f"{os.getpid()}\n")
    if "memory_mb" in event:
        held = os.urandom(1 << 20) * event["memory_mb"]
    time.sleep(event.get("sleep_s", 0))
    del held
    if "raise" in event:
        raise ValueError(event["raise"])
    if "exit" in event:
        os._exit(event["exit"])
    if "then" in event:
        function = boto3.client("lambda")
        answer = function.invoke(
            FunctionName=context.invoked_function_arn, InvocationType="Event", Payload=event["then"]
        )
        return answer["StatusCode"]
    if "temporary" in event:
        folder = Path(os.environ["TMPDIR"])
        before = sorted(path.name for path in folder.iterdir())
        (folder / event["temporary"]).touch()
        return [str(folder), before]
    return {
        "pid": os.getpid(),
        "event": event,
        "id": context.aws_request_id,
        "remaining_ms": context.get_remaining_time_in_millis(),
        "memory_mb": context.memory_limit_in_mb,
        "name": context.function_name,
        "environment": dict(os.environ),
    }
