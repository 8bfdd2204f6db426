"""Agents and chat models, as MLflow's users log most of today."""

from __future__ import annotations

from typing import Any

import mlflow
from mlflow.pyfunc import ChatAgent, ChatModel, ResponsesAgent

from tests.parity.bodies import Body, document
from tests.parity.cases import Case
from tests.parity.python_models import saved

TALK = [{"role": "user", "content": "What is 2 + 2?"}]
VOLATILE = ("id", "created", "created_at")


def chat_model() -> Any:
    class Echo(ChatModel):  # type: ignore[misc]
        def predict(
            self,
            context: Any,
            messages: list[mlflow.types.llm.ChatMessage],
            params: mlflow.types.llm.ChatParams,
        ) -> mlflow.types.llm.ChatCompletionResponse:
            said = {
                "role": "assistant",
                "content": f"{messages[-1].content} ({params.temperature}, {params.max_tokens})",
            }
            return mlflow.types.llm.ChatCompletionResponse.from_dict(
                {
                    "choices": [{"index": 0, "message": said, "finish_reason": "stop"}],
                    "model": "echo",
                    "created": 1,
                    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
                }
            )

    return Echo()


def chat_agent() -> Any:
    class Echo(ChatAgent):  # type: ignore[misc]
        def predict(
            self,
            messages: list[mlflow.types.agent.ChatAgentMessage],
            context: mlflow.types.agent.ChatContext | None = None,
            custom_inputs: dict[str, Any] | None = None,
        ) -> mlflow.types.agent.ChatAgentResponse:
            said = mlflow.types.agent.ChatAgentMessage(
                role="assistant", content=f"{messages[-1].content} {custom_inputs}", id="1"
            )
            return mlflow.types.agent.ChatAgentResponse(messages=[said])

    return Echo()


def responses_agent() -> Any:
    class Echo(ResponsesAgent):  # type: ignore[misc]
        def predict(
            self, request: mlflow.types.responses.ResponsesAgentRequest
        ) -> mlflow.types.responses.ResponsesAgentResponse:
            said = self.create_text_output_item(
                text=f"{len(request.input)} {request.custom_inputs}", id="1"
            )
            return mlflow.types.responses.ResponsesAgentResponse(output=[said])

    return Echo()


def talks() -> list[Body]:
    return [
        document("messages", {"messages": TALK}),
        document(
            "several messages", {"messages": [{"role": "system", "content": "Be short."}, *TALK]}
        ),
        document(
            "parameters", {"messages": TALK, "temperature": 0.5, "max_tokens": 10, "stop": ["x"]}
        ),
        document("stream", {"messages": TALK, "stream": True}),
        document("custom inputs", {"messages": TALK, "custom_inputs": {"a": [1, {"b": None}]}}),
        document("as a table", {"dataframe_records": [{"messages": TALK}]}),
        document("as instances", {"instances": [{"messages": TALK}]}),
        document("as inputs", {"inputs": {"messages": TALK}}),
        document("no messages", {"messages": []}),
        document("a message without a role", {"messages": [{"content": "hi"}]}),
        document("a text", {"messages": "hi"}),
        document("a text for a temperature", {"messages": TALK, "temperature": "warm"}),
    ]


def inputs() -> list[Body]:
    return [
        document("input", {"input": TALK}),
        document(
            "custom inputs", {"input": TALK, "custom_inputs": {"a": 1}, "context": {"user_id": "u"}}
        ),
        document("stream", {"input": TALK, "stream": True}),
        document("parameters", {"input": TALK, "temperature": 0.5, "max_output_tokens": 5}),
        document("a text", {"input": "hi"}),
        document("no input", {"messages": TALK}),
        document("a table", {"dataframe_records": [{"input": TALK}]}),
    ]


CASES = [
    Case("chat-model", saved(chat_model), talks, quick=True, volatile=VOLATILE),
    Case("chat-agent", saved(chat_agent), talks, quick=True, volatile=VOLATILE),
    Case("responses-agent", saved(responses_agent), inputs, quick=True, volatile=VOLATILE),
]
