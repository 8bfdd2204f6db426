"""Gradient boosting and statistics: xgboost, lightgbm, catboost, statsmodels."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.models import infer_signature
from sklearn.datasets import load_diabetes, load_iris

from tests.parity.bodies import Body, of_frame
from tests.parity.cases import Case

IRIS = load_iris(as_frame=True)
DIABETES = load_diabetes(as_frame=True)
X = DIABETES.data.rename(columns=str)


def diabetes() -> list[Body]:
    return of_frame(X)


def flowers() -> list[Body]:
    return of_frame(FLOWERS)


FLOWERS = IRIS.data.rename(columns=lambda name: name.replace(" (cm)", "").replace(" ", "_"))


def saved(flavor: str, model: Any, frame: Any, folder: Path, **options: Any) -> None:
    signature = infer_signature(frame, np.asarray(model.predict(frame)))
    getattr(mlflow, flavor).save_model(
        model, str(folder), signature=signature, pip_requirements=[], **options
    )


def xgb_regressor(folder: Path) -> None:
    model = import_module("xgboost").XGBRegressor(n_estimators=5, n_jobs=1).fit(X, DIABETES.target)
    saved("xgboost", model, X, folder)


def xgb_booster(folder: Path) -> None:
    xgboost = import_module("xgboost")
    data = xgboost.DMatrix(FLOWERS, IRIS.target)
    model = xgboost.train({"objective": "multi:softprob", "num_class": 3, "nthread": 1}, data, 3)
    signature = infer_signature(FLOWERS, model.predict(data))
    mlflow.xgboost.save_model(model, str(folder), signature=signature, pip_requirements=[])


def lgb_classifier(folder: Path) -> None:
    model = import_module("lightgbm").LGBMClassifier(n_estimators=5, n_jobs=1, verbose=-1)
    saved("lightgbm", model.fit(FLOWERS, IRIS.target), FLOWERS, folder)


def lgb_booster(folder: Path) -> None:
    lightgbm = import_module("lightgbm")
    data = lightgbm.Dataset(X, DIABETES.target)
    model = lightgbm.train({"num_threads": 1, "verbose": -1}, data, 3)
    saved("lightgbm", model, X, folder)


def cat_classifier(folder: Path) -> None:
    labels = IRIS.target.map({0: "setosa", 1: "versicolor", 2: "virginica"})
    model = import_module("catboost").CatBoostClassifier(
        iterations=5, thread_count=1, verbose=False, allow_writing_files=False
    )
    saved("catboost", model.fit(FLOWERS, labels), FLOWERS, folder)


def cat_regressor(folder: Path) -> None:
    model = import_module("catboost").CatBoostRegressor(
        iterations=5, thread_count=1, verbose=False, allow_writing_files=False
    )
    saved("catboost", model.fit(X, DIABETES.target), X, folder)


def least_squares(folder: Path) -> None:
    model = import_module("statsmodels.api").OLS(DIABETES.target, X).fit()
    saved("statsmodels", model, X, folder)


CASES = [
    Case("xgboost-regressor", xgb_regressor, diabetes, needs=("xgboost",)),
    Case("xgboost-booster", xgb_booster, flowers, needs=("xgboost",)),
    Case("lightgbm-classifier", lgb_classifier, flowers, needs=("lightgbm",)),
    Case("lightgbm-booster", lgb_booster, diabetes, needs=("lightgbm",)),
    Case("catboost-classifier", cat_classifier, flowers, needs=("catboost",)),
    Case("catboost-regressor", cat_regressor, diabetes, needs=("catboost",)),
    Case("statsmodels-ols", least_squares, diabetes, needs=("statsmodels",)),
]
