"""`python -m services.cluster`: what the hosts of a cluster on many hosts run beside Ray, as the Helm chart has them.

fetch   brings a model from the Hugging Face Hub to a folder, verified
model   makes the configured model ready to load, and refuses one that cannot be served
ready   asks a front door whether it serves
serve   writes what `serve deploy` takes
leave   takes this host out of the cluster: nothing new is placed here, streams end, workers start again elsewhere
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import socket
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from services.cluster.config import ClusterConfig
from services.core.clock import NS_PER_S, Clock, WallClock
from services.core.config import parse
from services.core.errors import ConfigError, TriptychError
from services.core.wire import NAMESPACE
from services.engine.checkpoint import prepare_model
from services.engine.fetch_model import fetch_model
from services.worker.config import RAY_NODE

POLL_S = 0.5
ANSWER_S = 10.0


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 not ready, 2 the model or the configuration is wrong."""
    given = parser().parse_args(arguments)
    try:
        if given.command == "fetch":
            digests = dict(pair.split("=", 1) for pair in given.sha256)
            fetched = fetch_model(given.repository, given.revision, given.into, digests)
            print(f"{given.into}: {'complete and verified' if fetched else 'was there'}")
            return 0
        if given.command == "ready":
            return ready(given.url)
        data = yaml.safe_load(given.config.read_text(encoding="utf-8")) or {}
        config = parse(ClusterConfig, data)
        if given.command == "serve":
            print(serve_file(config, data))
        elif given.command == "model":
            print(asyncio.run(model(config, given.wait_s, WallClock())))
        else:
            asyncio.run(leave(config, given.address, given.host, given.settle_s, given.drain_s, WallClock()))
    except TriptychError as error:
        print(error.message, file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    made = argparse.ArgumentParser(prog="python -m services.cluster", description=__doc__)
    commands = made.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("fetch")
    fetch.add_argument("--repository", required=True, help="organisation/model")
    fetch.add_argument("--revision", required=True, help="its commit")
    fetch.add_argument("--into", type=Path, required=True, help="the model's folder")
    fetch.add_argument("--sha256", action="append", default=[], metavar="FILE=DIGEST", help="expected, may be repeated")
    model = commands.add_parser("model")
    model.add_argument("--config", type=Path, required=True, help="the cluster's YAML file")
    model.add_argument("--wait-s", type=float, default=0.0, help="how long the model's folder may take to appear")
    ready = commands.add_parser("ready")
    ready.add_argument("--url", required=True, help="of /readyz; certificates are not verified")
    serve = commands.add_parser("serve")
    serve.add_argument("--config", type=Path, required=True, help="the cluster's YAML file, for many hosts")
    leave = commands.add_parser("leave")
    leave.add_argument("--config", type=Path, required=True, help="the cluster's YAML file")
    leave.add_argument("--address", default="auto", help="Ray's address; found on this host by default")
    leave.add_argument("--host", help="Ray's name for this host; found by default")
    leave.add_argument("--settle-s", type=float, default=0.0, help="go on so long before anything is refused")
    leave.add_argument("--drain-s", type=float, default=30.0, help="how long streams and workers may take to end")
    return made


async def model(config: ClusterConfig, wait_s: float, clock: Clock) -> Path:
    """Wait for the model's folder, which somebody else may be filling, and make it ready to load.

    Raises:
        ModelError: it did not come, or cannot be served.
    """
    path = Path(config.model.path).expanduser()
    end_ns = clock.now_ns() + int(wait_s * NS_PER_S)
    while path.is_absolute() and not path.exists() and clock.now_ns() < end_ns:
        await asyncio.sleep(POLL_S)
    return prepare_model(config.model.path, Path(config.state_folder).expanduser() / "models")


def ready(url: str) -> int:
    """Exit status: 0 when the front door would serve a request sent now."""
    anyone = ssl.create_default_context()
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_S, context=anyone) as answer:
            print(answer.status, answer.read().decode())
    except (urllib.error.URLError, OSError) as error:
        print(f"{url}: {error}", file=sys.stderr)
        return 1
    return 0


def serve_file(config: ClusterConfig, data: dict[str, Any]) -> str:
    """The file of `serve deploy` for a cluster's configuration.

    Raises:
        ConfigError: it is one of a single host.
    """
    from services.cluster.app import serve_config  # here: Ray takes a second, and other commands do without it

    if not config.many_hosts:
        raise ConfigError(
            "worker.host", config.worker.host, f"write {RAY_NODE}, so that every host is reached by its own address"
        )
    return yaml.safe_dump(serve_config(data, config.cluster.name), sort_keys=False)


async def leave(
    config: ClusterConfig, address: str, host: str | None, settle_s: float, drain_s: float, clock: Clock
) -> None:
    """Take this host out of its cluster; returns once nothing of ours runs here, or after both times.

    Ray is told that the host drains: it places nothing here any more, and Serve ends the front door that is here.
    """
    import ray
    from ray import _raylet
    from ray.core.generated import autoscaler_pb2
    from ray.serve import get_deployment_handle

    from services.cluster.app import CONTROL_APPLICATION, CONTROLLER
    from services.worker.host import address_here

    options: dict[str, Any] = {} if host is None else {"_node_ip_address": host}
    ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR, **options)
    await asyncio.sleep(settle_s)
    end_ns = clock.now_ns() + int(drain_s * NS_PER_S)
    context = ray.get_runtime_context()
    gcs: Any = _raylet  # what `ray drain-node` does
    reasons: Any = autoscaler_pb2
    gcs.GcsClient(address=context.gcs_address).drain_node(
        context.get_node_id(),
        reasons.DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION,
        "this host leaves",
        clock.unix_ms() + int(drain_s * 1000),
    )
    here = address_here(RAY_NODE)
    controller: Any = get_deployment_handle(CONTROLLER, CONTROL_APPLICATION)
    while clock.now_ns() < end_ns:
        left: tuple[str, ...] = ("unknown",)
        with contextlib.suppress(Exception):  # a controller that is being replaced itself is asked again
            # Again each time: a worker that was still loading is none that could be replaced, until it is ready.
            async with asyncio.timeout(ANSWER_S):
                left = await controller.replace_workers.remote(here)
        if not left and not listens(here, config.frontdoor.http_port):
            return
        await asyncio.sleep(POLL_S)


def listens(host: str, port: int) -> bool:
    """Whether anybody takes connections there."""
    with socket.socket() as probe:
        probe.settimeout(POLL_S)
        return probe.connect_ex((host, port)) == 0


if __name__ == "__main__":
    sys.exit(main())
