"""Tells Ray when AWS takes this spot instance back, so that functions leave it while there is time.

Runs on each worker of cluster.yaml. AWS announces the end two minutes ahead, at an address that the instance itself
must ask [1]; Ray does not ask. And where Ray has been gone for five minutes, since the head node is, the instance is
shut down, which terminates it: nobody would do that otherwise, and it would be paid for.

[1] https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
"""

import subprocess
import sys
import time
import urllib.request
from pathlib import Path

METADATA = "http://169.254.169.254/latest"
LOOK_S = 5.0
NOTICE_S = 120
ORPHAN_S = 300.0


def noticed(metadata: str = METADATA) -> bool:
    """Whether the instance was given notice. Asks with a session token, as the instance demands."""
    try:
        token = _fetch(f"{metadata}/api/token", "PUT", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
        _fetch(f"{metadata}/meta-data/spot/instance-action", "GET", {"X-aws-ec2-metadata-token": token})
    except OSError:  # 404 while there is no notice
        return False
    return True


def _fetch(url: str, method: str, headers: dict[str, str]) -> str:
    request = urllib.request.Request(url, method=method, headers=headers)
    with urllib.request.urlopen(request, timeout=2) as answer:
        text: str = answer.read().decode()
        return text


def drain() -> None:
    """Have Ray start nothing more on this node, and show it as being drained to those who look."""
    import ray

    ray.init(address="auto", log_to_driver=False)
    here = ray.get_runtime_context()
    command = [
        *("ray", "drain-node", "--address", here.gcs_address, "--node-id", here.get_node_id()),
        *("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "notice from AWS"),
        *("--deadline-remaining-seconds", str(NOTICE_S)),
    ]
    subprocess.run([str(Path(sys.executable).parent / command[0]), *command[1:]], check=True)
    ray.shutdown()


def ray_runs() -> bool:
    """Whether this node's part of Ray is alive."""
    return subprocess.run(["pgrep", "-x", "raylet"], stdout=subprocess.DEVNULL, check=False).returncode == 0


def main() -> None:
    seen = time.monotonic()
    while not noticed():
        if ray_runs():
            seen = time.monotonic()
        elif time.monotonic() - seen > ORPHAN_S:
            subprocess.run(["sudo", "shutdown", "-h", "now"], check=True)
            return
        time.sleep(LOOK_S)
    drain()


if __name__ == "__main__":
    main()
