"""What is read out of an `MLmodel` file."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from mlflow.models import Model
from mlflow.models.auth_policy import AuthPolicy, SystemAuthPolicy, UserAuthPolicy
from mlflow.models.resources import DatabricksServingEndpoint

from penstock.shared.contracts.deployment import ParameterSpec
from penstock.shared.contracts.tensor_spec import TensorSpec
from penstock.worker.runtimes.mlflow_model import (
    Column,
    MLmodelError,
    column_specs,
    named,
    read_mlmodel,
)


def write(folder: Path, **signature: Any) -> Path:
    packed = {side: json.dumps(entries) for side, entries in signature.items()}
    (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": {}, "signature": packed}))
    return folder


def test_a_signature_of_columns(tmp_path: Path) -> None:
    kinds = ["double", "float", "integer", "long", "boolean", "string", "binary", "datetime"]
    entries = [{"type": kind, "name": kind, "required": kind != "long"} for kind in kinds]
    mlmodel = read_mlmodel(write(tmp_path, inputs=entries))
    assert mlmodel is not None
    assert mlmodel.inputs is None
    assert mlmodel.input_columns is not None
    assert mlmodel.input_columns[3] == Column("long", "long", required=False)
    specs = column_specs(mlmodel.input_columns, "input")
    assert {spec.shape for spec in specs} == {(-1,)}
    assert [spec.datatype for spec in specs] == [
        *("FP64", "FP32", "INT32", "INT64", "BOOL", "BYTES", "BYTES", "BYTES")
    ]
    assert [spec.name for spec in specs if spec.optional] == ["long"]


def test_columns_without_names_are_numbered() -> None:
    assert [spec.name for spec in column_specs([Column("", "long")] * 2, "input")] == [
        "input-0",
        "input-1",
    ]


def test_columns_that_are_no_scalars_are_texts_in_json() -> None:
    (spec,) = column_specs([Column("a", "array")], "input")
    assert (spec.datatype, spec.shape, spec.structured, spec.text) == ("BYTES", (-1,), True, True)


def test_specs_without_names_are_numbered() -> None:
    specs = [
        TensorSpec(name=name, datatype="FP32", shape=(-1,)) for name in ("", "probabilities", "")
    ]
    assert [spec.name for spec in named(specs, "output")] == [
        "output-0",
        "probabilities",
        "output-2",
    ]


def test_parameters_that_requests_can_carry(tmp_path: Path) -> None:
    params = [
        {"name": "scale", "type": "double", "default": 1.5, "shape": None},
        {"name": "stops", "type": "string", "default": ["a"], "shape": [-1]},
    ]
    mlmodel = read_mlmodel(write(tmp_path, inputs=[{"type": "long"}], params=params))
    assert mlmodel is not None
    assert mlmodel.parameters == (ParameterSpec(name="scale", datatype="FP64"),)


AGENTS = {
    "ResponsesAgent": """
        from mlflow.types.responses import ResponsesAgentResponse

        class Agent(mlflow.pyfunc.ResponsesAgent):
            def predict(self, request):
                item = self.create_text_output_item("yes", "1")
                return ResponsesAgentResponse(output=[item])
    """,
    "ChatAgent": """
        from mlflow.types.agent import ChatAgentMessage, ChatAgentResponse

        class Agent(mlflow.pyfunc.ChatAgent):
            def predict(self, messages, context=None, custom_inputs=None):
                said = ChatAgentMessage(role="assistant", content="yes", id="1")
                return ChatAgentResponse(messages=[said])
    """,
    "ChatModel": """
        from mlflow.types.llm import ChatChoice, ChatCompletionResponse, ChatMessage

        class Agent(mlflow.pyfunc.ChatModel):
            def predict(self, context, messages, params):
                said = ChatMessage(role="assistant", content="yes")
                return ChatCompletionResponse(choices=[ChatChoice(index=0, message=said)])
    """,
}

PLAIN = """
    class Agent(mlflow.pyfunc.PythonModel):
        def predict(self, context, model_input, params=None):
            os.environ.get("SOME_API_KEY"), os.environ.get("SOME_HOME")
            return model_input
"""


def from_code(folder: Path, source: str, **options: Any) -> bool:
    """Save a model from its code, as MLflow does; whether it is held to act."""
    code = folder / "agent.py"
    tail = "\nmlflow.models.set_model(Agent())\n"
    code.write_text("import os\nimport mlflow\n" + textwrap.dedent(source) + tail)
    mlflow.pyfunc.save_model(
        str(folder / "m"), python_model=str(code), pip_requirements=[], **options
    )
    mlmodel = read_mlmodel(folder / "m")
    assert mlmodel is not None
    loader = mlmodel.flavors["python_function"]["loader_module"]
    assert loader == "mlflow.pyfunc.loaders.code_model"
    return mlmodel.acts


@pytest.mark.parametrize("kind", AGENTS)
@pytest.mark.parametrize("metadata", [None, {"task": "mine"}])
def test_agents_from_code_act_whatever_their_metadata_say(
    tmp_path: Path, kind: str, metadata: Any
) -> None:
    assert from_code(tmp_path, AGENTS[kind], metadata=metadata)


def test_a_model_from_code_acts_if_it_names_services_and_else_does_not(tmp_path: Path) -> None:
    asks = DatabricksServingEndpoint("llm")
    options: dict[str, dict[str, Any]] = {
        "none": {},
        "example": {"input_example": ["a"]},
        "resources": {"resources": [asks]},
        "policy": {"auth_policy": AuthPolicy(SystemAuthPolicy([asks]), UserAuthPolicy([]))},
        "prompts": {"mlflow_model": Model(prompts=["prompts:/ask/1"])},
        "key": {"mlflow_model": Model(env_vars=["HF_TOKEN", "SOME_API_KEY"])},
        "token": {"mlflow_model": Model(env_vars=["HF_TOKEN"])},
    }
    acts = set()
    for name, given in options.items():
        (tmp_path / name).mkdir()
        if from_code(tmp_path / name, PLAIN, **given):
            acts.add(name)
    assert acts == {"resources", "policy", "prompts", "key"}


@pytest.mark.parametrize(
    "text", ["[", "7", "signature: {inputs: '{'}", "signature: {params: '[{}]'}"]
)
def test_what_cannot_be_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "MLmodel").write_text(text)
    with pytest.raises(MLmodelError, match="cannot be read"):
        read_mlmodel(tmp_path)


def test_what_the_model_takes_as_text_is_said_to_be_text() -> None:
    kinds = ["string", "datetime", "binary", "double"]
    specs = column_specs([Column(kind, kind) for kind in kinds], "input")
    assert [spec.text for spec in specs] == [True, True, False, False]
