"""deploy/ray/: Ray's own launcher takes the cluster file, and a simulated AWS shows what it does with it."""

import copy
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.iam import allowed, many

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "ray"
REGION, ACCOUNT = "us-east-1", "123456789012"
CLUSTER = yaml.safe_load((FOLDER / "cluster.yaml").read_text())
NODES = {name: node["node_config"] for name, node in CLUSTER["available_node_types"].items()}
README = (FOLDER / "README.md").read_text()
PINNED = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())


def filled_in(name: str, **values: str) -> str:
    text = (FOLDER / name).read_text()
    for key, value in values.items():
        text = text.replace(key, value)
    return text


@pytest.fixture(scope="module")
def aws() -> Iterator[dict[str, str]]:
    """A simulated AWS after step 3 of the README; yields what its files are filled in with."""
    from moto import mock_aws

    with mock_aws(), pytest.MonkeyPatch.context() as patch:
        import boto3

        patch.setenv("AWS_DEFAULT_REGION", REGION)
        ec2, iam = boto3.client("ec2"), boto3.client("iam")
        group = ec2.create_security_group(GroupName="lambdaml-ray", Description="Ray")["GroupId"]
        image = ec2.describe_images()["Images"][0]["ImageId"]
        for node in ("head", "worker"):
            iam.create_instance_profile(InstanceProfileName=f"lambdaml-ray-{node}")
        yield {"SECURITY_GROUP": group, "AMI": image, "REGION": REGION, "ACCOUNT": ACCOUNT}


@pytest.fixture(scope="module")
def launched(aws: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The cluster's configuration as `ray up` would have it after looking at AWS."""
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # Ray makes a key and puts it there
        config = prepare_config(yaml.safe_load(filled_in("cluster.yaml", **aws)))
        validate_config(config)
        result: dict[str, Any] = bootstrap_aws(config)
    return result


def provider(config: dict[str, Any]) -> Any:
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    return AWSNodeProvider(config["provider"], config["cluster_name"])


def start(config: dict[str, Any], kind: str) -> None:
    tags = {"ray-node-name": kind, "ray-node-type": kind, "ray-user-node-type": kind, "ray-node-status": "setting-up"}
    provider(config).create_node(config["available_node_types"][kind]["node_config"], tags, 1)


def test_the_cluster_file_does_not_start_anything_before_it_is_filled_in() -> None:
    for node in NODES.values():
        assert node["ImageId"] == "AMI" and node["SecurityGroupIds"] == ["SECURITY_GROUP"]


def test_rays_schema_holds_and_refuses_a_file_with_a_misspelt_field(launched: dict[str, Any]) -> None:
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    wrong = copy.deepcopy(CLUSTER)
    wrong["idle_timeout_minute"] = 5
    with pytest.raises(ValidationError, match="idle_timeout_minute"):
        validate_config(prepare_config(wrong))


def test_the_head_is_on_demand_and_the_workers_are_on_spot(launched: dict[str, Any]) -> None:
    import boto3

    for kind in ("head", "worker"):
        start(launched, kind)
    found = {}
    for reservation in boto3.client("ec2").describe_instances()["Reservations"]:
        for instance in reservation["Instances"]:
            role = instance["IamInstanceProfile"]["Arn"].rpartition("/")[2]
            found[role] = (instance["InstanceType"], instance.get("InstanceLifecycle", "on demand"))
    assert found == {
        "lambdaml-ray-head": ("c5.xlarge", "on demand"),
        "lambdaml-ray-worker": ("c5.2xlarge", "spot"),
    }
    provider(launched).terminate_nodes(provider(launched).non_terminated_nodes({}))


def test_launching_opens_no_port_and_makes_no_group(aws: dict[str, str], launched: dict[str, Any]) -> None:
    import boto3

    groups = boto3.client("ec2").describe_security_groups()["SecurityGroups"]
    assert {group["GroupName"] for group in groups} == {"default", "lambdaml-ray"}
    (ours,) = [group for group in groups if group["GroupId"] == aws["SECURITY_GROUP"]]
    assert ours["IpPermissions"] == []
    assert "0.0.0.0" not in "".join(path.read_text() for path in FOLDER.iterdir())  # nor the dashboard


def test_workers_announce_the_cpus_that_they_have(launched: dict[str, Any]) -> None:
    import boto3

    (kind,) = boto3.client("ec2").describe_instance_types(InstanceTypes=["c5.2xlarge"])["InstanceTypes"]
    worker = CLUSTER["available_node_types"]["worker"]
    assert worker["resources"] == {"CPU": kind["VCpuInfo"]["DefaultVCpus"]}
    assert CLUSTER["available_node_types"]["head"]["resources"] == {"CPU": 0}
    assert worker["min_workers"] == 0 < worker["max_workers"] == CLUSTER["max_workers"]


def test_nothing_that_costs_money_stays_when_a_node_ends() -> None:
    assert CLUSTER["provider"]["cache_stopped_nodes"] is False
    assert 0 < CLUSTER["idle_timeout_minutes"] <= 10
    for node in NODES.values():
        assert node["InstanceInitiatedShutdownBehavior"] == "terminate"
        assert all(disk["Ebs"]["DeleteOnTermination"] for disk in node["BlockDeviceMappings"])


def test_files_that_go_to_the_nodes_are_there() -> None:
    assert all((ROOT / here).exists() or here == "dist" for here in CLUSTER["file_mounts"].values())
    assert "--wheel-dir dist" in README


def test_the_autoscaler_needs_nothing_that_its_policy_does_not_grant(
    aws: dict[str, str], launched: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each request that the head node makes, to run workers and to end the cluster, is granted."""
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.utils import resource_cache

    monkeypatch.setenv("HOME", str(tmp_path))
    policy, calls = json.loads(filled_in("autoscaler-policy.json", **aws)), []
    node_provider = provider(launched)

    def note(model: Any, params: Any, **_: Any) -> None:
        calls.append((f"{model.service_model.service_name}:{model.name}", params["body"]))

    used = [node_provider.ec2, node_provider.ec2_fail_fast, *(resource_cache(name, REGION) for name in ("ec2", "iam"))]
    clients = {each.meta.client for each in used}
    for client in clients:
        client.meta.events.register("before-call.*", note)
    start(launched, "worker")
    (worker,) = node_provider.non_terminated_nodes({})
    node_provider.set_node_tags(worker, {"ray-node-status": "up-to-date"})
    bootstrap_aws(launched)  # what `ray teardown` begins with
    node_provider.terminate_nodes([worker])
    for client in clients:
        client.meta.events.unregister("before-call.*", note)

    assert {name.partition(":")[2] for name, _ in calls} >= {
        *("RunInstances", "CreateTags", "TerminateInstances"),
        "DescribeSubnets",  # of `bootstrap_aws`
    }
    own = {"ec2:ResourceTag/ray-cluster-name": "lambdaml"}
    for name, body in calls:
        if name.endswith("RunInstances"):
            assert body["InstanceMarketOptions.MarketType"] == "spot"
            context = {
                "ec2:InstanceMarketType": "spot",
                "ec2:InstanceType": body["InstanceType"],
                "aws:RequestTag/ray-cluster-name": body["TagSpecification.1.Tag.1.Value"],
            }
            parts = [f"security-group/{body['SecurityGroupId.1']}", f"key-pair/{body['KeyName']}"]
            for part in [*parts, f"subnet/{body['SubnetId']}", "volume/v", "network-interface/n"]:
                assert allowed([policy], name, f"arn:aws:ec2:{REGION}:{ACCOUNT}:{part}", {}), part
            assert allowed([policy], name, f"arn:aws:ec2:{REGION}::image/{body['ImageId']}", {})
        else:
            context = own
        assert allowed([policy], name, f"arn:aws:ec2:{REGION}:{ACCOUNT}:instance/i-1", context), name


def test_the_autoscaler_may_not_touch_what_is_not_its_own(aws: dict[str, str]) -> None:
    policy = json.loads(filled_in("autoscaler-policy.json", **aws))
    instance = f"arn:aws:ec2:{REGION}:{ACCOUNT}:instance/i-1"
    spot = {
        "ec2:InstanceMarketType": "spot",
        "ec2:InstanceType": "c5.2xlarge",
        "aws:RequestTag/ray-cluster-name": "lambdaml",
    }
    assert allowed([policy], "ec2:RunInstances", instance, spot)
    for change in ({"ec2:InstanceMarketType": "on-demand"}, {"ec2:InstanceType": "p5.48xlarge"}):
        assert not allowed([policy], "ec2:RunInstances", instance, spot | change)
    assert not allowed([policy], "ec2:TerminateInstances", instance, {"ec2:ResourceTag/ray-cluster-name": "other"})
    assert not allowed([policy], "ec2:CreateTags", instance, {})
    assert not allowed([policy], "iam:PassRole", f"arn:aws:iam::{ACCOUNT}:role/admin", {})
    actions = {action for statement in policy["Statement"] for action in many(statement["Action"])}
    assert not any("*" in action for action in actions)


def test_everything_is_pinned_to_the_versions_of_this_checkout() -> None:
    setup = " ".join(CLUSTER["setup_commands"])
    docker = (FOLDER / "Dockerfile").read_text()
    assert f"ray[default]=={PINNED['ray']}" in setup
    for text in (setup, docker):
        assert f"torch=={PINNED['torch']}" in text and "constraints.txt" in text
    assert f"FROM rayproject/ray:{PINNED['ray']}-py312-cpu" in docker
    for path in FOLDER.iterdir():
        assert not re.search(r"torch==(?!" + re.escape(PINNED["torch"]) + ")", path.read_text()), path.name


def test_one_python_everywhere_and_lambdaml_runs_on_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "Programming Language :: Python :: 3.12" in project["classifiers"]
    assert "python3.12 -m venv" in " ".join(CLUSTER["setup_commands"])
    images = set(re.findall(r"image: (\S+)", (FOLDER / "kuberay.yaml").read_text()))
    assert images == {f"REGISTRY/lambdaml:{PINNED['ray']}-py312"}
    assert f"lambdaml:{PINNED['ray']}-py312" in README


def documents() -> tuple[Any, Any]:
    account, job = yaml.safe_load_all((FOLDER / "kuberay.yaml").read_text())
    return account, job


def groups() -> dict[str, Any]:
    cluster = documents()[1]["spec"]["rayClusterSpec"]
    return {"head": cluster["headGroupSpec"], "worker": cluster["workerGroupSpecs"][0]}


def test_the_manifest_has_the_fields_of_a_ray_job_and_no_others() -> None:
    """Names as in KubeRay's types (ray-operator/apis/ray/v1); Kubernetes drops what it does not know."""
    account, job = documents()
    assert (account["apiVersion"], account["kind"]) == ("v1", "ServiceAccount")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["spec"].keys() <= {
        *("entrypoint", "backoffLimit", "activeDeadlineSeconds", "shutdownAfterJobFinishes"),
        *("ttlSecondsAfterFinished", "rayClusterSpec"),
    }
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster.keys() <= {
        *("rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions"),
        *("headGroupSpec", "workerGroupSpecs"),
    }
    assert cluster["headGroupSpec"].keys() <= {"serviceType", "rayStartParams", "template"}
    for group in cluster["workerGroupSpecs"]:
        assert {"groupName", "rayStartParams", "template"} <= group.keys()
        assert 0 == group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in groups().values():
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        assert re.fullmatch(r"[a-z0-9-]+", group["template"]["spec"]["containers"][0]["name"])


def test_the_manifest_agrees_with_itself() -> None:
    account, job = documents()
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == PINNED["ray"]
    for group in groups().values():
        pod = group["template"]["spec"]
        assert pod["serviceAccountName"] == account["metadata"]["name"]
        for container in pod["containers"]:
            assert container["resources"]["requests"] == container["resources"]["limits"]
    assert groups()["head"]["rayStartParams"]["num-cpus"] == "0"
    assert groups()["worker"]["template"]["spec"]["restartPolicy"] == "Never"


def test_in_kubernetes_too_workers_alone_are_on_spot_and_nothing_is_open_or_left() -> None:
    spec = documents()[1]["spec"]
    capacity = {
        name: group["template"]["spec"]["nodeSelector"]["eks.amazonaws.com/capacityType"]
        for name, group in groups().items()
    }
    assert capacity == {"head": "ON_DEMAND", "worker": "SPOT"}
    assert spec["shutdownAfterJobFinishes"] is True and spec["activeDeadlineSeconds"] > 0
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert groups()["head"]["serviceType"] == "ClusterIP"


def test_a_retry_resumes_the_run_that_it_would_have_started() -> None:
    resume, _, train = documents()[1]["spec"]["entrypoint"].partition("||")
    run = "s3://BUCKET/PREFIX/digits-1"
    assert f"lambdaml resume {run}" in resume and f"--store {run}" in train
    assert all("--engine ray --address auto" in command for command in (resume, train))


def test_no_file_holds_a_secret() -> None:
    for path in FOLDER.iterdir():
        text = path.read_text()
        assert not re.search(r"AKIA|aws_secret|AWS_SECRET|BEGIN [A-Z ]*PRIVATE|auth_token:", text), path.name


DATED = re.compile(r"(January|February|March|April|May|June|July|August|September|October|November|December) 20\d\d")


def test_every_price_in_the_readme_carries_a_date() -> None:
    blocks = re.split(r"\n\n+|\n(?=\|)", README)
    derived = [block for block in blocks if block.startswith(("| head", "| each worker, at", "| the whole cluster"))]
    assert len(derived) == 3
    assert not [
        block for block in blocks if re.search(r"\$\d", block) and not DATED.search(block) and block not in derived
    ]


def test_the_sums_in_the_readme_are_those_of_its_prices() -> None:
    prices = {row.split("|")[1].strip(): row.split("|")[2] for row in README.splitlines() if row.startswith("| ")}

    def usd(row: str, which: int = 0) -> float:
        return float(re.findall(r"\$([\d.]+)", prices[row])[which])

    disk = 30 * usd("disk (gp3)") / 730
    address = usd("each public IPv4 address")
    head = usd("c5.xlarge, 4 vCPU, on demand") + disk + address
    worker = usd("the same on spot", 1) + disk + address
    assert usd("head") == pytest.approx(head, abs=0.0006)
    assert usd("each worker, at $0.19") == pytest.approx(worker, abs=0.0006)
    assert usd("the whole cluster, four workers") == pytest.approx(head + 4 * worker, abs=0.006)
    round_usd = 17 * usd("S3: 1,000 puts, creates or lists") / 1000 + 360 * usd("S3: 1,000 gets, 404s included") / 1000
    assert f"${3600 * round_usd:.2f}: as much" in README
    assert f"${head * 24:.2f} a day, ${head * 730:.0f} a\nmonth" in README


def test_the_readme_explains_every_file_beside_it() -> None:
    assert all(f"`{path.name}`" in README for path in FOLDER.iterdir() if path.name != "README.md")
