"""Penstock as a target of MLflow's deployments: `get_deploy_client("penstock://host:8080")`.

MLflow finds this module by its entry point (`mlflow.deployments`), and the one client class in it.
The registry stays the place where it is said what serves: a deployment is a registered model, and
to create or update one is to tag a version; so the client needs MLflow's tracking URI, as any
client of the registry does, beside the gateway's address.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlsplit

import mlflow
import pandas as pd
import requests
from mlflow.deployments import PredictionsResponse
from mlflow.deployments.base import BaseDeploymentClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    DEADLINE_EXCEEDED,
    INVALID_PARAMETER_VALUE,
    INVALID_STATE,
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
)
from mlflow.store.artifact.models_artifact_repo import _parse_model_uri
from mlflow.utils.proto_json_utils import NumpyEncoder, dump_input_data

DEFAULT_HOST = "127.0.0.1:8080"
PREFIX_VARIABLE = "PENSTOCK_TAG_PREFIX"

TIMEOUT_S = 300.0
"""How long to wait for a version to serve, by default: large models load for minutes."""

POLL_S = 0.5
ANSWER_S = 60.0
"""Longest that a gateway may take to answer, calls of models included."""

ENDED = frozenset({"failed", "invalid", "superseded"})
"""Statuses of a version that will not serve."""

HELP = f"""\
Penstock serves what MLflow's registry says. A deployment is a registered model, by its name.

  target URI   penstock://HOST:PORT of a gateway (penstock alone: {DEFAULT_HOST});
               penstock://HOST:PORT?scheme=https behind TLS
  model URI    models:/NAME/VERSION or models:/NAME@ALIAS; NAME is the deployment's name
  --config     timeout_s=N   how long to wait until the version serves (default {TIMEOUT_S:.0f})
               tag_prefix=P  of the system's tags (default ${PREFIX_VARIABLE}, or penstock)
               any setting of a version by its tag's name, such as replicas=2 (penstock tags)

create tags the version as stable and waits until it serves; update does so for another version,
and takes the tag from the others; delete switches all versions of the model off. MLflow's tracking
URI (MLFLOW_TRACKING_URI) says which registry.
"""


def target_help() -> str:
    """What `mlflow deployments help -t penstock` prints."""
    return HELP


def run_local(
    target: str, name: str, model_uri: str, flavor: str | None = None, config: Any = None
) -> None:
    """Refused: a system of one's own is one command.

    Raises:
        MlflowException: always.
    """
    raise MlflowException(
        "to serve models on this machine, run `penstock up --mlflow-uri URI`, then deploy to "
        f"penstock://{DEFAULT_HOST}",
        error_code=INVALID_PARAMETER_VALUE,
    )


class PenstockDeploymentClient(BaseDeploymentClient):  # type: ignore[misc]
    """Deployments of one Penstock.

    Args:
        target_uri: see `target_help`.
    """

    def __init__(self, target_uri: str) -> None:
        super().__init__(target_uri)
        parts = urlsplit(target_uri)
        scheme = "https" if parts.query == "scheme=https" else "http"
        self._url = f"{scheme}://{parts.netloc or DEFAULT_HOST}"

    @property
    def _registry(self) -> Any:
        """Made when it is needed: to call a model, none is."""
        return mlflow.MlflowClient()

    def create_deployment(
        self,
        name: str,
        model_uri: str,
        flavor: str | None = None,
        config: dict[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Have a version serve a model that no version serves yet, and wait until it does.

        Returns:
            the deployment, as `get_deployment` has it.

        Raises:
            MlflowException: RESOURCE_ALREADY_EXISTS, if a version serves it; INVALID_STATE, if this
                one cannot be served; DEADLINE_EXCEEDED, if it does not in time.
        """
        _refuse(endpoint, flavor)
        if self._found(name) is not None:
            raise MlflowException(
                f"deployment {name!r} exists already: update it", RESOURCE_ALREADY_EXISTS
            )
        self._deploy(name, self._version_of(name, model_uri), dict(config or {}))
        return self.get_deployment(name)

    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: dict[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> None:
        """Have another version serve a model, or the same one with other settings.

        Raises:
            MlflowException: RESOURCE_DOES_NOT_EXIST, if none serves it; else as for
                `create_deployment`.
        """
        _refuse(endpoint, flavor)
        version = self.get_deployment(name)["versions"][0]
        if model_uri is not None:
            version = self._version_of(name, model_uri)
        self._deploy(name, version, dict(config or {}))

    def delete_deployment(
        self, name: str, config: dict[str, Any] | None = None, endpoint: str | None = None
    ) -> None:
        """Switch all versions of a model off, and wait until none serves; no error if none does.

        Raises:
            MlflowException: DEADLINE_EXCEEDED, if one goes on to serve.
        """
        _refuse(endpoint)
        said = dict(config or {})
        prefix, until = _prefix(said), _until(said)
        for version in self._versions(name):
            served = self._found(name) or {"versions": []}
            tagged = version.tags.get(f"{prefix}.role") == "stable"
            if tagged or version.version in served["versions"]:
                self._registry.set_model_version_tag(name, version.version, f"{prefix}.role", "off")
        while self._found(name) is not None:
            if time.monotonic() > until:
                raise MlflowException(f"{name!r} goes on to serve", DEADLINE_EXCEEDED)
            time.sleep(POLL_S)

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """All models that have a version which serves."""
        _refuse(endpoint)
        names = self._asked("/v1/models")["models"]
        return [found for name in names if (found := self._found(name)) is not None]

    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """A deployment: `name`, `versions` (the one that answers first), `platform`, `inputs` and
        `outputs`, as the gateway has them.

        Raises:
            MlflowException: RESOURCE_DOES_NOT_EXIST.
        """
        _refuse(endpoint)
        found = self._found(name)
        if found is None:
            raise MlflowException(f"no version of {name!r} serves", RESOURCE_DOES_NOT_EXIST)
        return found

    def predict(
        self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None
    ) -> PredictionsResponse:
        """Call a model.

        Args:
            deployment_name: the model.
            inputs: a frame, an array, a list, a dictionary of arrays, or a whole payload of
                MLflow's scoring server (`dataframe_split`, `messages` and so on).
            endpoint: there are none.

        Raises:
            MlflowException: with the code that the gateway answered.
        """
        _refuse(endpoint)
        if deployment_name is None:
            raise MlflowException.invalid_parameter_value("name the deployment to call")
        path = f"/v2/models/{quote(deployment_name, safe='')}/invocations"
        answer = self._asked(path, body=_payload(inputs))
        return PredictionsResponse(answer)

    def _deploy(self, name: str, version: str, said: dict[str, Any]) -> None:
        prefix, until = _prefix(said), _until(said)
        for setting, value in said.items():
            self._registry.set_model_version_tag(name, version, f"{prefix}.{setting}", str(value))
        self._registry.set_model_version_tag(name, version, f"{prefix}.role", "stable")
        for other in self._versions(name):
            if other.version != version and other.tags.get(f"{prefix}.role") == "stable":
                self._registry.delete_model_version_tag(name, other.version, f"{prefix}.role")
        self._wait(name, version, prefix, until)

    def _wait(self, name: str, version: str, prefix: str, until: float) -> None:
        """Until a version answers for its model."""
        status = ""
        while (self._found(name) or {"versions": [""]})["versions"][0] != version:
            tags = self._registry.get_model_version(name, version).tags
            status = tags.get(f"{prefix}.status", "")
            reason = tags.get(f"{prefix}.status_message", "")
            if status in ENDED:
                raise MlflowException(
                    f"{name!r} version {version} is {status}: {reason}", INVALID_STATE
                )
            if time.monotonic() > until:
                found = f"it is {status} ({reason})" if status else "no system took notice of it"
                raise MlflowException(
                    f"{name!r} version {version} does not serve yet: {found}", DEADLINE_EXCEEDED
                )
            time.sleep(POLL_S)

    def _version_of(self, name: str, model_uri: str) -> str:
        """The version that a model URI names."""
        with suppress(MlflowException):
            found = _parse_model_uri(model_uri)
            if found.name == name and found.version is not None:
                return str(self._registry.get_model_version(name, found.version).version)
            if found.name == name and found.alias is not None:
                return str(self._registry.get_model_version_by_alias(name, found.alias).version)
        raise MlflowException.invalid_parameter_value(
            f"expected models:/{name}/VERSION or models:/{name}@ALIAS of a registered version, got "
            f"{model_uri!r}: a deployment has the name of its model"
        )

    def _versions(self, name: str) -> list[Any]:
        return list(self._registry.search_model_versions(f"name='{name}'"))

    def _found(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._asked(f"/v2/models/{quote(name, safe='')}")
        except MlflowException as error:
            if error.get_http_status_code() in (404, 503):
                return None
            raise
        return found

    def _asked(self, path: str, body: str | None = None) -> Any:
        """What the gateway answers.

        Raises:
            MlflowException: with its code, or TEMPORARILY_UNAVAILABLE if there is none.
        """
        method = "GET" if body is None else "POST"
        headers = {"content-type": "application/json"}
        try:
            answer = requests.request(
                method, self._url + path, data=body, headers=headers, timeout=ANSWER_S
            )
        except requests.RequestException as error:
            raise MlflowException(
                f"no gateway answers at {self._url}: {error}", TEMPORARILY_UNAVAILABLE
            ) from error
        if answer.ok:
            return answer.json()
        raise _error_of(answer)


def _error_of(answer: requests.Response) -> MlflowException:
    try:
        said = answer.json()
    except ValueError:
        said = {}
    message = said.get("message") or said.get("error") or answer.text
    codes = {404: "RESOURCE_DOES_NOT_EXIST", 503: "TEMPORARILY_UNAVAILABLE"}
    code = said.get("error_code") or codes.get(answer.status_code, "INTERNAL_ERROR")
    error = MlflowException(f"{message} (HTTP {answer.status_code})")
    error.error_code = code
    return error


def _payload(inputs: Any) -> str:
    whole = ("dataframe_split", "dataframe_records", "instances", "inputs")
    talks = ("messages", "prompt", "input")
    if isinstance(inputs, dict) and any(name in inputs for name in (*whole, *talks)):
        return json.dumps(inputs)
    if isinstance(inputs, pd.DataFrame):
        text: str = dump_input_data(inputs)
        return text
    return json.dumps({"inputs": inputs}, cls=NumpyEncoder)


def _prefix(said: dict[str, Any]) -> str:
    return str(said.pop("tag_prefix", os.environ.get(PREFIX_VARIABLE) or "penstock"))


def _until(said: dict[str, Any]) -> float:
    return time.monotonic() + float(said.pop("timeout_s", TIMEOUT_S))


def _refuse(endpoint: str | None, flavor: str | None = None) -> None:
    """There are no endpoints, and Penstock chooses the runtime."""
    if endpoint is not None:
        raise MlflowException.invalid_parameter_value("there are no endpoints: name the deployment")
    if flavor is not None:
        raise MlflowException.invalid_parameter_value(
            f"flavor {flavor!r}: the runtime is chosen by what the model has"
        )
