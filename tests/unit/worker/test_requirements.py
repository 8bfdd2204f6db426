"""What a model asks for, against what is installed, and beside what we need."""

from __future__ import annotations

from pathlib import Path

from worker.recipes import needs_beside, recipe_of
from worker.requirements import compare, installed_versions, read_requirements

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
