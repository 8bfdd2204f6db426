"""Which peers there are, and how each is started: the setup of `README.md` in this folder."""

from __future__ import annotations

import json
import sysconfig
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from load_tests.peers.process import Launch, free_port
from load_tests.peers.protocols import OipProtocol, RowsProtocol, WireProtocol
from load_tests.peers.venvs import PeerVenv
from load_tests.server import MAX_BATCH_SIZE, MAX_QUEUE_DELAY_MS, Encoding, Model

APPS = Path(__file__).parent / "apps"
MILLISECONDS_PER_SECOND = 1000


@dataclass(frozen=True)
class Place:
    """Where a peer is to serve what.

    Attributes:
        temporary: a folder of a short path, for sockets.
    """

    model: Model
    venv: PeerVenv
    work_dir: Path
    temporary: Path
    port: int


@dataclass(frozen=True)
class Recipe:
    """A peer.

    Attributes:
        environment: its name, and that of the requirements in it.
        distribution: the Python package whose version is told.
        launch: writes what configuration the peer needs into the work folder.
        version_note: appended to the version.
    """

    name: str
    environment: str
    distribution: str
    protocol: WireProtocol
    launch: Callable[[Place], Launch]
    version_note: str = ""

    def environment_at(self, place: Place) -> dict[str, str]:
        """What the peer's processes find in their environment beyond that of this process."""
        return {
            "PEER_MODEL_NAME": place.model.name,
            "PEER_MODEL_PATH": str(place.model.path.resolve()),
            "PEER_MODEL_WIDTH": str(place.model.width),
            "PEER_MODEL_OUTPUT_WIDTH": str(place.model.output_width),
            "PEER_PORT": str(place.port),
            "PEER_MAX_BATCH_SIZE": str(MAX_BATCH_SIZE),
            "PEER_MAX_QUEUE_DELAY_MS": str(MAX_QUEUE_DELAY_MS),
            "PYTHONPATH": str(APPS),
            "TMPDIR": str(place.temporary),
            "TEMP": str(place.temporary),
            "OMP_NUM_THREADS": "1",
        }


def app(place: Place, name: str, environment: Mapping[str, str] | None = None) -> Launch:
    """Run a script of `apps` by the peer's Python."""
    return Launch([str(place.venv.python), str(APPS / name)], environment or {})


def launch_mosec(place: Place) -> Launch:
    return app(place, "mosec_app.py", mosec_settings(place))


def launch_tuned_mosec(place: Place) -> Launch:
    return app(place, "mosec_tuned_app.py", mosec_settings(place))


def mosec_settings(place: Place) -> dict[str, str]:
    """Its options, as variables."""
    return {
        "MOSEC_ADDRESS": "127.0.0.1",
        "MOSEC_PORT": str(place.port),
        "MOSEC_LOG_LEVEL": "warning",
    }


def launch_fastapi(place: Place) -> Launch:
    return app(place, "fastapi_app.py")


def launch_triton(place: Place) -> Launch:
    """Triton's Python backend has to find the shared library of the Python that we run."""
    libraries = sysconfig.get_config_var("LIBDIR")
    return app(place, "triton_app.py", {"LD_LIBRARY_PATH": str(libraries)})


def launch_litserve(place: Place) -> Launch:
    return app(place, "litserve_app.py")


def launch_bentoml(place: Place) -> Launch:
    settings = {
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(place.work_dir / "bentoml"),
    }
    options = ["--host", "127.0.0.1", "--port", str(place.port), "--working-dir", str(APPS)]
    command = [place.venv.program("bentoml"), "serve", "bentoml_app:Inference", *options]
    return Launch(command, settings)


def launch_mlserver(place: Place) -> Launch:
    folder = place.work_dir / "models"
    folder.mkdir()
    settings = {
        "debug": False,
        "host": "127.0.0.1",
        "http_port": place.port,
        "grpc_port": free_port(),
        "metrics_endpoint": None,
        "parallel_workers": 1,
    }
    model = {
        "name": place.model.name,
        "implementation": "mlserver_app.OnnxRuntime",
        "max_batch_size": MAX_BATCH_SIZE,
        "max_batch_time": MAX_QUEUE_DELAY_MS / MILLISECONDS_PER_SECOND,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    return Launch([place.venv.program("mlserver"), "start", str(folder)])


TORCHSERVE_LOGGING = """\
<Configuration status="error">
  <Appenders><Console name="out"><PatternLayout pattern="%d %p %c - %m%n"/></Console></Appenders>
  <Loggers><Root level="warn"><AppenderRef ref="out"/></Root></Loggers>
</Configuration>
"""
TORCHSERVE_RESPONSE_TIMEOUT_S = 120
TORCHSERVE_QUEUE_SIZE = 1000
"""It refuses requests beyond; its own default is 100."""


def launch_torchserve(place: Place) -> Launch:
    """Of a model archive of the handler alone: the model is read from where it lies."""
    store = place.work_dir / "store"
    store.mkdir()
    name = place.model.name
    manifest = {
        "runtime": "python",
        "model": {"modelName": name, "modelVersion": "1.0", "handler": "torchserve_app.py"},
        "archiverVersion": "0.12.0",
    }
    with zipfile.ZipFile(store / f"{name}.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        for script in ("torchserve_app.py", "onnx_session.py"):
            archive.write(APPS / script, script)
    config = place.work_dir / "config.properties"
    settings = torchserve_settings(place)
    config.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    logging = place.work_dir / "log4j2.xml"
    logging.write_text(TORCHSERVE_LOGGING)
    options = ["--model-store", str(store), "--ts-config", str(config)]
    options += ["--log-config", str(logging), "--no-config-snapshots", "--disable-token-auth"]
    command = [place.venv.program("torchserve"), "--start", "--foreground", *options]
    return Launch(command)


def torchserve_settings(place: Place) -> dict[str, str | int]:
    """Its `config.properties`."""
    name = place.model.name
    model = {
        "defaultVersion": True,
        "marName": f"{name}.mar",
        "minWorkers": 1,
        "maxWorkers": 1,
        "batchSize": MAX_BATCH_SIZE,
        "maxBatchDelay": MAX_QUEUE_DELAY_MS,
        "responseTimeout": TORCHSERVE_RESPONSE_TIMEOUT_S,
    }
    return {
        "inference_address": f"http://127.0.0.1:{place.port}",
        "management_address": f"http://127.0.0.1:{free_port()}",
        "metrics_address": f"http://127.0.0.1:{free_port()}",
        "grpc_inference_port": free_port(),
        "grpc_management_port": free_port(),
        "job_queue_size": TORCHSERVE_QUEUE_SIZE,
        "decode_input_request": "false",
        "disable_system_metrics": "true",
        "load_models": f"{name}.mar",
        "models": json.dumps({name: {"1.0": model}}),
    }


def launch_ray(place: Place) -> Launch:
    """It must not report home, watch the machine's memory, or listen beyond 127.0.0.1.

    The last is what the setting for Windows does on Linux too; `ray.init` replaces 127.0.0.1.
    """
    settings = {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_memory_monitor_refresh_ms": "0",
        "RAY_SERVE_LOG_TO_STDERR": "0",
    }
    return app(place, "ray_app.py", settings)


RECIPES = (
    Recipe("mosec", "mosec", "mosec", RowsProtocol("/inference"), launch_mosec),
    Recipe(
        "mosec-tuned",
        "mosec",
        "mosec",
        RowsProtocol("/inference", encodings=(Encoding.JSON, Encoding.MSGPACK)),
        launch_tuned_mosec,
    ),
    Recipe("fastapi", "fastapi", "fastapi", RowsProtocol("/predict"), launch_fastapi),
    Recipe(
        "triton",
        "triton",
        "nvidia-pytriton",
        OipProtocol((Encoding.JSON, Encoding.BINARY)),
        launch_triton,
        version_note=" (Triton 2.51.0)",
    ),
    Recipe("litserve", "litserve", "litserve", RowsProtocol("/predict"), launch_litserve),
    Recipe(
        "bentoml", "bentoml", "bentoml", RowsProtocol("/predict", output_field=None), launch_bentoml
    ),
    Recipe("mlserver", "mlserver", "mlserver", OipProtocol(), launch_mlserver),
    Recipe(
        "torchserve",
        "torchserve",
        "torchserve",
        RowsProtocol("/predictions/{model}"),
        launch_torchserve,
    ),
    Recipe("ray", "ray", "ray", RowsProtocol("/predict"), launch_ray),
)
