"""The commands that `penstock up --demo` prints."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np

from penstock.deploy.local.cli.curl_examples import (
    TEST_IMAGE,
    TEST_IMAGE_LABEL,
    describe_system,
    predict_command,
    status_command,
    swap_command,
)
from penstock.deploy.local.demo.digits import load_split
from penstock.deploy.local.system.system_file import SystemFile


def test_the_image_is_the_first_of_the_test_split() -> None:
    digits = load_split()
    assert np.array_equal(digits.test_images[0], TEST_IMAGE)
    assert digits.test_labels[0] == TEST_IMAGE_LABEL


def test_a_shell_reads_the_prediction_as_it_is_meant() -> None:
    words = shlex.split(predict_command("http://127.0.0.1:8080"))
    assert words[:3] == ["curl", "-s", "http://127.0.0.1:8080/v2/models/digits/infer"]
    (tensor,) = json.loads(words[-1])["inputs"]
    assert tensor["shape"] == [1, 64]
    assert tensor["data"] == list(TEST_IMAGE)


def test_a_shell_reads_the_swap_as_it_is_meant() -> None:
    words = shlex.split(swap_command("http://mlflow:5000/"))
    assert words[2] == "http://mlflow:5000/api/2.0/mlflow/model-versions/set-tag"
    assert json.loads(words[-1]) == {
        "name": "digits",
        "version": "2",
        "key": "penstock.role",
        "value": "stable",
    }


def test_commands_are_shown_with_the_demo_only_each_on_one_line() -> None:
    system = SystemFile(
        pid=1, url="http://[::1]:80", mlflow_uri="http://m", redis_url="", namespace=""
    )
    logs = Path("/a b/logs")
    shown = describe_system(system, logs, None, demo=True).splitlines()
    for command in (predict_command(system.url), swap_command("http://m")):
        assert f"  {command}" in shown
    assert f"  {status_command(system.url)}" in shown
    secret = Path("/a b/webhook-secret")
    plain = describe_system(system, logs, secret, demo=False)
    assert "tail -F '/a b/logs'/*.log" in plain
    assert "signed by the secret in '/a b/webhook-secret'" in plain
    assert "curl" not in plain
    assert not any("webhooks" in line for line in shown)
