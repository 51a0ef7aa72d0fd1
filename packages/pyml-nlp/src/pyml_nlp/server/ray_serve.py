"""``pyml serve --ray``: replicas of a model on a Ray cluster, and one door to them in this process.

:class:`.Replica` is the application of ``pyml serve`` without a socket; Ray Serve starts, replaces and scales replicas.
The door has the keys, the limits of connections and the log; :class:`.PrefixRouter` chooses the replica of a request.
:func:`build` is the same for a configuration file of Ray Serve, with Ray's own HTTP server in front.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket as sockets_of_python
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from pyml_core.errors import PymlError, quoted

from .. import logs, ray_session
from ..errors import ArgumentError
from ..options.load import LoadOptions
from ..values import whole
from .options import ServeOptions

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from .forwarder import Servers
    from .forwarding import Forwarded, Page
    from .guard_keys import Keys
    from .guard_origins import Hosts
    from .http_front import Served

STALL_SECONDS = 15.0
"""How long a deployment may make no progress before a line says what it waits for."""

MODEL = "model"
"""The deployment of the replicas."""

_USER = "pyml serve --ray"
_METRICS_SECONDS = 5.0
_OBSERVERS = 64  # requests of a replica beyond its texts: lists, traces, tokens


class Replicas(NamedTuple):
    """How many replicas there are.

    Attributes:
        fewest, most: Ray Serve keeps their number between these.
        threads: of each, which are as many logical CPUs of Ray; None: as many as fit, see :func:`threads_of`.
    """

    fewest: int = 1
    most: int = 1
    threads: int | None = None


class Plan(NamedTuple):
    """What a replica is made from.

    Attributes:
        model: a file, a folder or a hub id, at the same path on every machine; None: the default model.
        load: how it is loaded.
        options: how it is served.
        draft_model: a smaller model that drafts tokens; None: none does.
        verbosity: of the log, see :func:`pyml_nlp.logs.configure_cli`.
    """

    model: str | None
    load: LoadOptions
    options: ServeOptions
    draft_model: str | None = None
    verbosity: int = 0


def parse_replicas(text: str) -> tuple[int, int]:
    """Fewest and most replicas of ``MIN:MAX``, or of one number.

    Raises:
        ValueError: anything else.
    """
    low, _, high = text.partition(":")
    fewest, most = int(low), int(high or low)
    if not 1 <= fewest <= most:
        raise ValueError(text)
    return fewest, most


def run(address: str, plan: Plan, replicas: Replicas) -> int:
    """Listen, deploy replicas on a cluster, and serve them until the process is told to end.

    Args:
        address: of the cluster: ``"local"``, ``"auto"`` or HOST:PORT.
        plan: what a replica is made from.
        replicas: how many there are.

    Returns:
        The exit code: 0 after a signal.

    Raises:
        ArgumentError, PymlError, OSError: as of :func:`.http.run`; or Ray is not installed, there is no cluster, or a
            replica cannot start.
    """
    ray_session.check_address(address)
    ray_session.require("ray.serve", _USER)
    from .http import door_of  # these have the libraries of the extra

    door = door_of(plan.options)
    from .http_life import Life  # as above
    from .http_limits import Limits

    ray = ray_session.connect(address, _USER)  # here: a local cluster ends with the thread that has started it
    cluster = _Cluster(ray, address, plan, replicas, _application_name(door.sockets))
    life = Life(
        partial(cluster.deploy, door.keys, door.hosts), door.sockets, door.keys, drain=plan.options.drain,
        unix=plan.options.unix, limits=Limits().fitting(), shared=door.shared,
    )  # fmt: skip
    try:
        return life.run()
    finally:
        cluster.end()


def deployment(plan: Plan, replicas: Replicas, threads: int) -> Any:
    """The application of Ray Serve whose replicas are made from a plan.

    Args:
        plan: what a replica is made from.
        replicas: how many there are.
        threads: of each, which are as many logical CPUs of Ray.
    """
    from ray import serve  # the callers have checked that it is installed
    from ray.serve.config import AutoscalingConfig, RequestRouterConfig

    from .ray_replica import Replica  # it has the libraries of the extra
    from .ray_router import prefix_router  # as above

    class Model(Replica):
        """A replica that knows its name among those of Ray."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.name = serve.get_replica_context().replica_id.unique_id

    options = plan.options
    places = options.max_batch_size
    scaling: dict[str, Any] = {"num_replicas": replicas.fewest}
    if replicas.most > replicas.fewest:
        scaling = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=replicas.fewest,
                max_replicas=replicas.most,
                target_ongoing_requests=places,
                look_back_period_s=10.0,
                upscale_delay_s=10.0,
                downscale_delay_s=300.0,
            )
        }
    level = os.environ.get("PYML_CPU_LEVEL")
    made = serve.deployment(
        Model,
        name=MODEL,
        ray_actor_options={
            "num_cpus": threads,
            "runtime_env": {"env_vars": {} if level is None else {"PYML_CPU_LEVEL": level}},
        },
        max_ongoing_requests=places + options.max_queue + _OBSERVERS,
        max_queued_requests=options.max_queue + _OBSERVERS,
        graceful_shutdown_timeout_s=options.drain + 5,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=5.0,
        health_check_timeout_s=30.0,
        max_constructor_retry_count=2,
        request_router_config=RequestRouterConfig(
            request_router_class=prefix_router(),
            request_router_kwargs={"spare": max(1, places // 2)},
        ),
        **scaling,
    )
    load = plan.load.replace(threads=threads)
    own = options.replace(api_keys={}, api_key_file=None, allowed_hosts=(), cors_origins=(), unix=None, models=None)
    return made.bind(plan.model, load, own, plan.draft_model, plan.verbosity)


def threads_of(replicas: Replicas, nodes: list[int]) -> int:
    """Threads of a replica: as given, or so many that the fewest replicas fit on the cluster.

    Args:
        replicas: how many there are.
        nodes: logical CPUs of each node.

    Raises:
        PymlError: none are given, and no node has CPUs yet.
    """
    if replicas.threads is not None:
        return replicas.threads
    if not nodes:
        raise PymlError("no node of the cluster has CPUs yet: say with --threads how many a replica has")
    return max(1, min(nodes) // -(-replicas.fewest // len(nodes)))


def build(arguments: Mapping[str, Any]) -> Any:
    """The application for a configuration file of Ray Serve: ``import_path: pyml_nlp.server.ray_serve:build``.

    Args:
        arguments: ``model``, ``threads`` (needed), ``replicas`` (``"MIN:MAX"``), ``draft_model``, fields of
            :class:`.LoadOptions`, and of :class:`.ServeOptions`, which say how each replica is served.

    Raises:
        ArgumentError: an unknown or invalid argument.
    """
    ray_session.require("ray.serve", "pyml_nlp.server.ray_serve")
    from ray import serve  # it is installed

    given = dict(arguments)
    threads = whole("threads", given.pop("threads", None), 1)
    try:
        fewest, most = parse_replicas(str(given.pop("replicas", "1")))
    except ValueError:
        raise ArgumentError(f"must be MIN:MAX, got {quoted(arguments['replicas'])}", "replicas") from None
    model, draft_model = given.pop("model", None), given.pop("draft_model", None)
    load = {one.name: given.pop(one.name) for one in fields(LoadOptions) if one.name in given}
    unknown = sorted(set(given) - {one.name for one in fields(ServeOptions)})
    if unknown:
        raise ArgumentError(f"is not an option of a server, got {quoted(unknown[0])}", "arguments")
    options = ServeOptions(**given)
    plan = Plan(model, LoadOptions(**load), options, draft_model)
    inner = deployment(plan, Replicas(fewest, most), threads)

    def application() -> ASGIApp:  # a function without arguments: Ray takes anything else for the application itself
        return _ingress_application(options)

    ingress = serve.ingress(application)(_Ingress)
    made = serve.deployment(
        ingress, name="door", ray_actor_options={"num_cpus": 0}, max_ongoing_requests=1024,
        graceful_shutdown_timeout_s=options.drain + 5,
    )  # fmt: skip
    return made.bind(inner)


class _Ingress:
    """The door as a deployment; its application has a handle of its own."""

    def __init__(self, model: Any) -> None:
        self.model = model


def _ingress_application(options: ServeOptions) -> ASGIApp:
    from ray import serve  # this runs in a process of Ray

    from .guard_keys import Keys  # these have the libraries of the extra
    from .guard_origins import Hosts  # as above

    context = serve.get_replica_context()
    handle = serve.get_deployment_handle(MODEL, app_name=context.app_name)
    hosts = Hosts(names=options.allowed_hosts) if options.allowed_hosts else None
    keys = dict(options.api_keys)
    key = os.environ.get("PYML_SERVE_API_KEY", "").strip()
    if key:
        keys["default"] = key
    logs.configure_cli(0)
    return door_application(_servers(handle), options, Keys(keys, options.api_key_file), hosts)


def door_application(servers: Servers, options: ServeOptions, keys: Keys, hosts: Hosts | None) -> ASGIApp:
    """The application that clients see: a guard, and servers behind it."""
    from .forwarder import Forwarder  # these have the libraries of the extra
    from .guard import Guard
    from .guard_origins import Origins

    forwarder = Forwarder(servers, options.log)
    return Guard(forwarder, keys, hosts, Origins(options.cors_origins), options.max_body_bytes)


class _Cluster:
    """The application on a cluster, from its deployment to its end."""

    def __init__(self, ray: Any, address: str, plan: Plan, replicas: Replicas, name: str) -> None:
        self._ray = ray
        self._address = address
        self._plan = plan
        self._replicas = replicas
        self._name = name
        self._deployed = False
        self._ended = threading.Event()

    def deploy(self, keys: Keys, hosts: Hosts | None) -> Served:
        """Deploy, wait until the first replicas run, and return the door to them.

        Raises:
            PymlError: there is no cluster, or no replica can start.
        """
        from ray import serve  # run has checked that it is installed

        from .http_front import Served  # it has the libraries of the extra

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        ray = self._ray
        threads = threads_of(self._replicas, ray_session.node_cpus(ray))
        serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR"})
        self._deployed = True
        watching = threading.Thread(target=self._watch, args=(ray, serve, threads), daemon=True)
        watching.start()
        try:
            target = deployment(self._plan, self._replicas, threads)
            handle = serve.run(target, name=self._name, route_prefix=None, logging_config={"log_level": "ERROR"})
            facts = handle.broadcast("facts").results(timeout_s=60)
        except Exception as error:  # RuntimeError, RayError, TimeoutError
            raise PymlError(f"no replica can start: {_reason(serve, self._name, error)}") from None
        finally:
            self._ended.set()
        _tell_differences(facts)
        name = facts[0]["model"] if facts else self._name
        app = door_application(_servers(handle), self._plan.options, keys, hosts)
        return Served(name, app, drain=_nothing, abort=_ignore, alive=ray.is_initialized, close=_nothing)

    def end(self) -> None:
        """Take the application off the cluster, and leave the cluster."""
        self._ended.set()
        if self._deployed and self._address != ray_session.LOCAL:  # a local cluster ends with all it has
            with suppress(Exception):  # the cluster may be gone
                from ray import serve  # deploy has imported it

                serve.delete(self._name, _blocking=False)
        ray_session.disconnect()

    def _watch(self, ray: Any, serve: Any, threads: int) -> None:
        """Say what the deployment waits for, if it does not get on."""
        while not self._ended.wait(STALL_SECONDS):
            with suppress(Exception):  # the next look may succeed
                found = serve.status().applications[self._name].deployments[MODEL]
                running = found.replica_states.get("RUNNING", 0)
                free, of = ray_session.free_cpus(ray)
                logs.tell(
                    f"Waiting for replicas: {running} of {self._replicas.fewest} run; each needs {threads} CPUs, the"
                    f" cluster has {free:g} free of {of:g}"
                )


def _servers(handle: Any) -> Servers:
    """The replicas behind a handle of Ray Serve."""
    from .forwarder import Servers  # it has the libraries of the extra

    streaming = handle.options(stream=True)
    return Servers(
        answer=partial(_Answering, streaming),
        ready=streaming.running_replicas_populated,
        metrics=partial(asyncio.to_thread, _metrics, handle),
    )


def _metrics(handle: Any) -> list[Page]:
    from .forwarding import Page  # the command line imports this module to read an option

    found = handle.broadcast("metrics").results(timeout_s=_METRICS_SECONDS, return_exceptions=True)
    return sorted(Page(*one) for one in found if not isinstance(one, BaseException))


class _Answering:
    """A response that a replica is making."""

    def __init__(self, handle: Any, request: Forwarded) -> None:
        self._response = handle.remote(request)

    async def __aiter__(self) -> AsyncIterator[Any]:
        from ray.exceptions import RayError  # this runs only with Ray
        from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RequestCancelledError

        from .forwarder import Busy, Lost  # it has the libraries of the extra

        try:
            async for frame in self._response:
                yield frame
        except BackPressureError:
            raise Busy from None
        except (RayError, DeploymentUnavailableError, RequestCancelledError) as error:
            logs.root.info("a replica has failed: %s", str(error).splitlines()[:1])
            raise Lost from None

    def cancel(self) -> None:
        self._response.cancel()


def _application_name(sockets: list[sockets_of_python.socket]) -> str:
    """A name that is the same when this server is started again: it finds the replicas of one that was killed."""
    address = sockets[0].getsockname()
    place = address if isinstance(address, str) else str(address[1])
    return f"pyml-{sockets_of_python.gethostname()}-{place.replace('/', '-').replace('#', '-')}"


def _reason(serve: Any, name: str, error: Exception) -> str:
    """Why a deployment has failed: the last line that Ray Serve knows of it, without the traceback."""
    text = str(error)
    with suppress(Exception):
        text = serve.status().applications[name].deployments[MODEL].message or text
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line.partition(":")[0]]
    return (errors or lines or [type(error).__name__])[-1][:300]


def _tell_differences(facts: list[dict[str, str]]) -> None:
    """Warn if replicas would not write the same texts."""
    for name in ("version", "cpu_level", "weights"):
        found = sorted({one[name] for one in facts})
        if len(found) > 1:
            logs.root.warning("replicas differ in their %s (%s): texts will, too", name, ", ".join(found))


def _nothing() -> None:
    """The replicas drain and close by themselves."""


def _ignore(failed: bool) -> None:
    """Requests that are being answered end with their connections."""
