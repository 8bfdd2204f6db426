"""Which children a local system has, and how each is told its settings.

Settings travel as `PENSTOCK_*` variables, never as arguments: a store's URL may hold a password,
and arguments are visible to every user of the machine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

from penstock.deploy.local.demo.tags import PREFIX_VARIABLE
from penstock.deploy.local.system.data_dir import DataDir
from penstock.deploy.local.system.runtime_dir import RuntimeDir
from penstock.deploy.local.up.processes import EXEC_CHILD, PENSTOCK, PYTHON, ProcessSpec
from penstock.deploy.local.up.settings import UpSettings
from penstock.shared.contracts.addresses import is_loopback

KILL_AFTER_GRACE_S = 25.0
"""A child that drains gets so much longer than it was told to take, before it is killed: a worker
has replicas of its own to end, and to kill, after the grace."""


@dataclass(frozen=True)
class SystemPlan:
    """What the children's settings come from; all of it is known before the first one starts.

    Attributes:
        redis_url, mlflow_uri: as the children reach them; without MLflow, the latter is empty.
        listen_fd, port: the gateways' shared listening socket.
        webhook_secrets: by which the gateways sign webhooks; with several, spaces between them.
    """

    settings: UpSettings
    data_dir: DataDir
    runtime: RuntimeDir
    redis_url: str
    mlflow_uri: str
    listen_fd: int
    port: int
    webhook_secrets: str = field(repr=False)

    def gateways(self) -> list[ProcessSpec]:
        """The gateways."""
        return [self._gateway(index) for index in range(self.settings.gateways)]

    def workers(self) -> list[ProcessSpec]:
        """The worker agents; they share one cache."""
        return [self._worker(index) for index in range(self.settings.workers)]

    def syncs(self) -> list[ProcessSpec]:
        """The registry_sync daemons."""
        return [self._sync(index) for index in range(self.settings.syncs)]

    def numbered(self, kind: str, index: int) -> ProcessSpec:
        """A `gateway`, `worker` or `registry-sync` under a number of the caller's choice."""
        make = {"gateway": self._gateway, "worker": self._worker, "registry-sync": self._sync}
        return make[kind](index)

    def mlflow(self) -> ProcessSpec:
        """MLflow's server, on this machine only.

        Its paths are relative: in a URI, characters of the data directory's name could mean
        something. One web worker and no job runner: each takes 240 MB.
        """
        return ProcessSpec(
            name="mlflow",
            command=(
                *(*EXEC_CHILD, *PYTHON, "-m", "mlflow", "server", "--host", "127.0.0.1"),
                *("--port", str(self.settings.mlflow_port), "--workers", "1"),
                *("--backend-store-uri", "sqlite:///mlflow.db"),
                *("--artifacts-destination", "./artifacts"),
            ),
            log=self.data_dir.log_of("mlflow"),
            environment={
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                "OTEL_SDK_DISABLED": "true",  # traces may be sent to it: it must add none
                "MLFLOW_DISABLE_TELEMETRY": "true",
            },
            working_dir=self.data_dir.mlflow,
        )

    def demo(self) -> ProcessSpec:
        """The one-off process that logs the demo's model; it needs mlflow, the launcher not."""
        return ProcessSpec(
            name="demo",
            command=(*PYTHON, "-m", "penstock.deploy.local.demo.demo"),
            log=self.data_dir.log_of("demo"),
            environment={
                "MLFLOW_TRACKING_URI": self.mlflow_uri,
                "MLFLOW_DISABLE_TELEMETRY": "true",
                PREFIX_VARIABLE: self.settings.tag_prefix,
            },
        )

    def _gateway(self, index: int) -> ProcessSpec:
        name = f"gateway-{index}"
        settings = {
            "GATEWAY": name,
            "HOST": self.settings.host,
            "PORT": str(self.port),
            "LISTEN_FD": str(self.listen_fd),
            "ENDPOINT": f"ipc://{self.runtime.path / name}.ipc",
            "BLOBS_URL": self._blobs_url,
            "WEBHOOK_SECRETS": self.webhook_secrets,
            **self._draining(),
        }
        return self._service(name, "gateway", settings, pass_fds=(self.listen_fd,))

    def _worker(self, index: int) -> ProcessSpec:
        name = f"worker-{index}"
        handover_s = self.settings.handover_grace_s
        longest_s = self.settings.drain_timeout_s_max
        settings = {
            "WORKER": name,
            "CACHE_DIR": str(self.data_dir.cache),
            "HANDOVER_GRACE_S": str(handover_s),
            "DRAIN_TIMEOUT_S_MAX": str(longest_s),
            "BLOBS_URL": self._blobs_url,
            "ERROR_DETAILS": self._error_details,
            **self._draining(),
        }
        spec = self._service(name, "worker", settings)
        drain_s = max(self.settings.drain_grace_s, longest_s)
        return replace(spec, grace_s=handover_s + drain_s + KILL_AFTER_GRACE_S)

    def _sync(self, index: int) -> ProcessSpec:
        name = f"registry-sync-{index}"
        models = self.settings.models_dir
        settings = {
            **({"MODELS": str(models)} if models else {"MLFLOW_URI": self.mlflow_uri}),
            "CACHE_DIR": str(self.data_dir.cache),
            "METRICS_PORT": "0",
            "TAG_PREFIX": self.settings.tag_prefix,
            "INCLUDE": json.dumps(self.settings.include),
            "EXCLUDE": json.dumps(self.settings.exclude),
            "MODEL_TAG": self.settings.model_tag,
        }
        return self._service(name, "registry-sync", settings)

    @property
    def _blobs_url(self) -> str:
        return self.settings.blobs_url or str(self.data_dir.blobs)

    @property
    def _error_details(self) -> str:
        wanted, host = self.settings.error_details, self.settings.host
        if wanted != "auto":
            return wanted
        return "message" if host == "localhost" or is_loopback(host) else "none"

    def _draining(self) -> dict[str, str]:
        # 0: each takes a free port and reports it, for the sum.
        return {"DRAIN_GRACE_S": str(self.settings.drain_grace_s), "METRICS_PORT": "0"}

    def _service(
        self, name: str, command: str, settings: dict[str, str], pass_fds: tuple[int, ...] = ()
    ) -> ProcessSpec:
        common = {"REDIS_URL": self.redis_url, "NAMESPACE": self.settings.namespace}
        return ProcessSpec(
            name=name,
            command=(*PENSTOCK, command),
            log=self.data_dir.log_of(name),
            environment={f"PENSTOCK_{key}": value for key, value in (common | settings).items()},
            pass_fds=pass_fds,
            grace_s=self.settings.drain_grace_s + KILL_AFTER_GRACE_S,
        )
