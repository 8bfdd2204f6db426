"""What a model asks for, against what is installed, and beside what we need."""

from __future__ import annotations

from pathlib import Path

from penstock.worker.environments.recipes import needs_beside, recipe_of
from penstock.worker.environments.requirements import (
    NAMED_MAX,
    compare,
    installed_versions,
    read_requirements,
    unmet,
)

INSTALLED = {
    "numpy": "2.4.6",
    "mlflow-skinny": "3.17.2",
    "torch": "2.13.0+cpu",
    "scikit-learn": "1.9.1",
}


def test_missing_packages_and_other_versions_are_told_apart() -> None:
    lines = ["numpy<2", "Scikit_Learn==1.9.1", "torch==2.13.0", "mlflow==3.17.2", "left-pad>=1"]
    comparison = compare(lines, INSTALLED)
    assert comparison.missing == ("left-pad>=1",)
    assert comparison.different == ("numpy 2.4.6, not <2",)


def test_what_names_no_package_of_this_interpreter_is_passed_over() -> None:
    lines = [
        *("-c constraints.txt", "--extra-index-url https://x/", "./code/own.whl"),
        'pywin32; sys_platform == "win32"',
    ]
    assert compare(lines, INSTALLED).missing == ()


def test_the_file_without_comments(tmp_path: Path) -> None:
    assert read_requirements(tmp_path) == ()
    (tmp_path / "requirements.txt").write_text("# all\nnumpy==2  # why\n\n  pandas\n")
    assert read_requirements(tmp_path) == ("numpy==2", "pandas")


def test_this_environment_has_what_it_says() -> None:
    assert "numpy" in installed_versions()


def test_our_needs_beside_the_models() -> None:
    assert any(need.startswith("pyzmq") and ">=27" in need for need in needs_beside((), None))
    assert "torch==2.13.0" in needs_beside((), "torch")
    assert not any(need.startswith("torch") for need in needs_beside({"torch"}, "torch"))
    assert not any(need.startswith("onnx") for need in needs_beside({"onnxruntime"}, "onnx"))
    pyfunc = needs_beside({"mlflow", "numpy"}, "pyfunc")
    assert not any(need.startswith(("mlflow", "numpy")) for need in pyfunc)
    assert any(need.startswith("mlflow-skinny==") for need in needs_beside((), "pyfunc"))


def test_recipes_are_equal_exactly_if_requirements_are(tmp_path: Path) -> None:
    for name, text in (("a", "x==1\n"), ("b", "x==1\n"), ("c", "x==2\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "requirements.txt").write_text(text)
    digests = [recipe_of(tmp_path / name).digest for name in "abc"]
    assert digests[0] == digests[1] != digests[2]


def test_a_graph_is_told_what_is_missing_but_for_what_only_mlflow_needs() -> None:
    lines = ["mlflow==9.9", "onnx==1.0", "Cloud-Pickle", "left-pad>=1", "numpy<2"]
    told = unmet(lines, {"numpy": "2.4.6", "cloud-pickle": "1"}, runs_code=False)
    assert told == "packages that it asks for are not installed: left-pad>=1"
    assert unmet(["mlflow", "onnx", "cloudpickle==3"], {}, runs_code=False) == ""
    assert unmet(["numpy<2"], {"numpy": "2.4.6"}, runs_code=False) == ""


def test_what_runs_code_is_told_other_versions() -> None:
    told = unmet(["numpy<2", "torch==2.13.0"], INSTALLED, runs_code=True)
    assert told == "it runs with other versions than it asks for: numpy 2.4.6, not <2"
    assert unmet(["torch==2.13.0"], INSTALLED, runs_code=True) == ""


def test_a_note_names_a_few_packages() -> None:
    told = unmet([f"package-{number}" for number in range(50)], {}, runs_code=False)
    assert told.count("package-") == NAMED_MAX
    assert told.endswith("and 45 more")


def test_nothing_that_a_model_or_an_environment_says_fails_a_load(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_bytes(b"caf\xe9==1\npytz==2013b\nold==1\n")
    lines = read_requirements(tmp_path)
    assert compare(lines, {"pytz": "2013b", "old": "no version"}).different == (
        "old no version, not ==1",
    )
