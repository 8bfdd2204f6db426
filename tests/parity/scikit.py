"""scikit-learn: estimators, pipelines and signatures of all kinds, on its own data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import infer_signature
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_diabetes, load_iris, load_wine
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC

from tests.parity.bodies import Body, document, of_array, of_frame, text
from tests.parity.cases import Case

DIABETES = load_diabetes(as_frame=True)
IRIS = load_iris(as_frame=True)
WINE = load_wine(as_frame=True)
SPECIES = IRIS.target.map(dict(enumerate(IRIS.target_names)))
PEOPLE = pd.DataFrame(
    {
        "age": [31.0, np.nan, 54.5, 22.0, 40.0, 61.0],
        "city": ["Ulm", "Bonn", "Ulm", "Köln", "Bonn", "Köln"],
        "visits": [1, 0, 7, 3, 2, 5],
        "member": [True, False, True, True, False, False],
    }
)
BOUGHT = np.array(["no", "no", "yes", "no", "yes", "yes"])
REVIEWS = pd.DataFrame(
    {"review": ["good", "very bad, I'm afraid", "quite good", "bad", "", "great — süß!"]}
)
STARS = np.array([5, 1, 4, 1, 3, 5])


def saved(
    fit: Callable[[], Any], signature: Callable[[Any], Any] | None = None, **options: Any
) -> Callable[[Path], None]:
    """The way to save a model; its signature may be inferred from it."""

    def make(folder: Path) -> None:
        model = fit()
        mlflow.sklearn.save_model(
            model,
            str(folder),
            signature=None if signature is None else signature(model),
            pip_requirements=[],
            serialization_format="cloudpickle",
            **options,
        )

    return make


def people() -> Any:
    columns = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["age", "visits"]),
            ("words", OneHotEncoder(handle_unknown="ignore"), ["city", "member"]),
        ]
    )
    return make_pipeline(columns, LogisticRegression()).fit(PEOPLE, BOUGHT)


def tabular(
    name: str,
    fit: Callable[[], Any],
    frame: pd.DataFrame,
    answers: Callable[[Any], Any] | None = None,
    *,
    quick: bool = False,
    more: Sequence[Body] = (),
    **options: Any,
) -> Case:
    """A model of a table; `answers` are what its signature is inferred from, of the model."""

    def signature(model: Any) -> Any:
        return infer_signature(frame, answers(model) if answers else model.predict(frame))

    make = saved(fit, signature, **options)
    return Case(f"sklearn-{name}", make, lambda: [*of_frame(frame), *more], quick=quick)


def arrays(name: str, fit: Callable[[], Any], array: Any, *, signed: bool = True) -> Case:
    """A model of an array."""
    columns = list("abcdefghijklm")[: array.shape[1]]
    table = {"dataframe_split": {"columns": columns, "data": array[:3].tolist()}}

    def signature(model: Any) -> Any:
        return infer_signature(array, model.predict(array)) if signed else None

    def bodies() -> list[Body]:
        return [*of_array(array), document("dataframe_split x3", table)]

    return Case(f"sklearn-{name}", saved(fit, signature), bodies)


FLOWERS = IRIS.data.astype(float)
ODD_FLOWERS = [
    document(
        "columns in another order",
        {
            "dataframe_split": {
                "columns": list(FLOWERS.columns[::-1]),
                "data": [[0.2, 1.4, 3.5, 5.1]],
            }
        },
    ),
    document(
        "a surplus column",
        {"dataframe_records": [{**dict.fromkeys(FLOWERS.columns, 1.5), "more": 3}]},
    ),
    document("a missing column", {"dataframe_records": [dict.fromkeys(FLOWERS.columns[1:], 1.5)]}),
    document("integers for floats", {"dataframe_records": [dict.fromkeys(FLOWERS.columns, 1)]}),
    document(
        "null for a float",
        {"dataframe_records": [{**dict.fromkeys(FLOWERS.columns, 1.5), FLOWERS.columns[0]: None}]},
    ),
    document("a text for a float", {"dataframe_records": [dict.fromkeys(FLOWERS.columns, "x")]}),
    document("a text of a float", {"dataframe_records": [dict.fromkeys(FLOWERS.columns, "1.5")]}),
    document("booleans for floats", {"dataframe_records": [dict.fromkeys(FLOWERS.columns, True)]}),
    document("one row bare", {"inputs": dict.fromkeys(FLOWERS.columns, 1.5)}),
    document("no columns", {"dataframe_split": {"data": [[5.1, 3.5, 1.4, 0.2]]}}),
    document("no rows", {"dataframe_split": {"columns": list(FLOWERS.columns), "data": []}}),
    document("rows without names", {"inputs": [[5.1, 3.5, 1.4, 0.2]]}),
    document("instances without names", {"instances": [[5.1, 3.5, 1.4, 0.2]]}),
    document(
        "an index",
        {
            "dataframe_split": {
                "columns": list(FLOWERS.columns),
                "data": [[5.1, 3.5, 1.4, 0.2]],
                "index": [7],
            }
        },
    ),
    document(
        "params that nobody asked for",
        {"dataframe_records": [dict.fromkeys(FLOWERS.columns, 1.5)], "params": {"x": 1}},
    ),
    document("two fields", {"inputs": [[1.0]], "instances": [[1.0]]}),
    document("another field", {"data": [[1.0]]}),
    document("a list", [[1.0]]),
    text("no JSON", "{"),
    text("nothing", ""),
    text("NaN", '{"dataframe_records": [{' + ", ".join(f'"{n}": NaN' for n in FLOWERS) + "}]}"),
    text("CSV without a header", "5.1,3.5,1.4,0.2\n", "text/csv"),
    text(
        "CSV with a surplus column",
        ",".join([*FLOWERS.columns, "x"]) + "\n5.1,3.5,1.4,0.2,9\n",
        "text/csv",
    ),
    text("CSV with an empty cell", ",".join(FLOWERS.columns) + "\n,3.5,1.4,0.2\n", "text/csv"),
    text("CSV with a text", ",".join(FLOWERS.columns) + "\nx,3.5,1.4,0.2\n", "text/csv"),
    text("CSV that is ragged", ",".join(FLOWERS.columns) + "\n1,2\n", "text/csv"),
    text(
        "CSV with a charset",
        ",".join(FLOWERS.columns) + "\n5.1,3.5,1.4,0.2\n",
        "text/csv; charset=utf-8",
    ),
    text("no Parquet", "PAR1 it is not", "application/vnd.apache.parquet"),
]

ODD_PEOPLE = [
    document(
        "3.0 for a long",
        {"dataframe_records": [{"age": 3, "city": "Ulm", "visits": 3.0, "member": True}]},
    ),
    document(
        "3.5 for a long",
        {"dataframe_records": [{"age": 3, "city": "Ulm", "visits": 3.5, "member": True}]},
    ),
    document(
        "a text for a long",
        {"dataframe_records": [{"age": 3, "city": "Ulm", "visits": "3", "member": True}]},
    ),
    document(
        "null for a long",
        {"dataframe_records": [{"age": 3, "city": "Ulm", "visits": None, "member": True}]},
    ),
    document(
        "null for a text",
        {"dataframe_records": [{"age": 3, "city": None, "visits": 3, "member": True}]},
    ),
    document(
        "a number for a text",
        {"dataframe_records": [{"age": 3, "city": 7, "visits": 3, "member": True}]},
    ),
    document(
        "1 for a boolean",
        {"dataframe_records": [{"age": 3, "city": "Ulm", "visits": 3, "member": 1}]},
    ),
    document(
        "null for a boolean",
        {"dataframe_records": [{"age": 3, "city": "Ulm", "visits": 3, "member": None}]},
    ),
    text("CSV with booleans", "age,city,visits,member\n3,Ulm,3,true\n4,,1,False\n", "text/csv"),
    text("CSV with 1 for a boolean", "age,city,visits,member\n3,Ulm,3,1\n", "text/csv"),
    text("CSV with 3.0 for a long", "age,city,visits,member\n3,Ulm,3.0,True\n", "text/csv"),
    text("CSV with NA for a text", "age,city,visits,member\n3,NA,3,True\n", "text/csv"),
]


def wine() -> Any:
    return LogisticRegression(max_iter=5000).fit(WINE.data, WINE.target)


def flowers() -> Any:
    return LogisticRegression(max_iter=500).fit(FLOWERS, IRIS.target)


def diabetes() -> Any:
    return LinearRegression().fit(DIABETES.data, DIABETES.target)


def chances(frame: pd.DataFrame, columns: Sequence[str] | None = None) -> Callable[[Any], Any]:
    def answers(model: Any) -> Any:
        found = model.predict_proba(frame)
        return found if columns is None else pd.DataFrame(found, columns=list(columns))

    return answers


NUMBERS = PEOPLE[["age", "visits"]].astype(float)
TWO = FLOWERS.iloc[:, :2]
TARGETS = FLOWERS.iloc[:, 2:]
LABELS = np.stack([IRIS.target, IRIS.target % 2], axis=1)
CHANCES: dict[str, Any] = {"pyfunc_predict_fn": "predict_proba"}

CASES = [
    tabular("linear", diabetes, DIABETES.data, lambda _: DIABETES.target, quick=True),
    tabular("logistic", flowers, FLOWERS, quick=True, more=ODD_FLOWERS),
    tabular(
        "labels",
        lambda: RandomForestClassifier(n_estimators=10, random_state=0).fit(FLOWERS, SPECIES),
        FLOWERS,
    ),
    tabular(
        "series",
        lambda: RandomForestRegressor(n_estimators=5, random_state=0).fit(
            DIABETES.data, DIABETES.target
        ),
        DIABETES.data,
        lambda _: DIABETES.target,
    ),
    tabular("probabilities", wine, WINE.data, chances(WINE.data), **CHANCES),
    tabular(
        "probabilities-by-column", wine, WINE.data, chances(WINE.data, ["a", "b", "c"]), **CHANCES
    ),
    tabular("people", people, PEOPLE, quick=True, more=ODD_PEOPLE),
    tabular(
        "people-probabilities",
        people,
        PEOPLE,
        chances(PEOPLE),
        more=ODD_PEOPLE,
        quick=True,
        **CHANCES,
    ),
    tabular(
        "text",
        lambda: make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(REVIEWS.review, STARS),
        REVIEWS,
        lambda _: STARS,
    ),
    tabular(
        "text-by-column",
        lambda: make_pipeline(
            ColumnTransformer([("words", TfidfVectorizer(), "review")]), LogisticRegression()
        ).fit(REVIEWS, STARS),
        REVIEWS,
    ),
    tabular(
        "missing",
        lambda: HistGradientBoostingClassifier(max_iter=10, random_state=0).fit(NUMBERS, BOUGHT),
        NUMBERS,
    ),
    tabular("clusters", lambda: KMeans(3, n_init=1, random_state=0).fit(FLOWERS), FLOWERS),
    tabular(
        "several-targets", lambda: LinearRegression().fit(TWO, TARGETS), TWO, lambda _: TARGETS
    ),
    tabular(
        "several-labels",
        lambda: MultiOutputClassifier(KNeighborsClassifier()).fit(FLOWERS, LABELS),
        FLOWERS,
    ),
    tabular(
        "outliers",
        lambda: IsolationForest(n_estimators=20, random_state=0).fit(FLOWERS),
        FLOWERS,
    ),
    tabular(
        "projected",
        lambda: make_pipeline(PCA(2), LogisticRegression(max_iter=500)).fit(FLOWERS, SPECIES),
        FLOWERS,
        chances(FLOWERS),
        pyfunc_predict_fn="predict_log_proba",
    ),
    arrays(
        "array",
        lambda: LinearRegression().fit(DIABETES.data.to_numpy(), DIABETES.target),
        DIABETES.data.to_numpy(),
    ),
    arrays("array-labels", lambda: SVC().fit(FLOWERS.to_numpy(), SPECIES), FLOWERS.to_numpy()),
    arrays(
        "unsigned",
        lambda: KNeighborsClassifier().fit(FLOWERS.to_numpy(), IRIS.target),
        FLOWERS.to_numpy(),
        signed=False,
    ),
    Case(
        "sklearn-unsigned-table",
        saved(people),
        lambda: [*of_frame(PEOPLE), *ODD_PEOPLE],
        quick=True,
    ),
    Case(
        "sklearn-no-outputs",
        saved(flowers, lambda _: infer_signature(FLOWERS)),
        lambda: of_frame(FLOWERS),
    ),
    Case(
        "sklearn-example",
        saved(diabetes, input_example=DIABETES.data.head(5)),
        lambda: of_frame(DIABETES.data),
    ),
]
