"""What uv is told of pip's settings, and what it is not asked to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.worker.environments.pip_settings import (
    NotForUvError,
    check_requirements,
    no_index,
    pip_settings,
    uv_variables,
)

HERE = Path("/")


def test_the_last_section_wins_that_says_anything() -> None:
    listing = """:env:.find-links=''
:env:.index-url='https://c'
:env:.no-input='1'
download.timeout='9'
global.find-links='/a\\n/b'
global.index-url='https://a'
global.timeout='5'
install.index-url='https://b'
install.timeout='7'
"""
    assert pip_settings(listing) == {
        "find-links": "/a\n/b",
        "index-url": "https://c",
        "timeout": "7",
    }


@pytest.mark.parametrize("listing", ["", "global.index-url='https://a'\n"])
def test_a_listing_without_what_must_be_in_it_is_not_believed(listing: str) -> None:
    with pytest.raises(NotForUvError):
        pip_settings(listing)


@pytest.mark.parametrize(
    ("name", "value", "variables"),
    [
        ("index-url", "https://a", {"UV_DEFAULT_INDEX": "https://a"}),
        ("extra-index-url", "https://a https://b", {"UV_INDEX": "https://a https://b"}),
        ("find-links", "https://a\n/ /not-there", {"UV_FIND_LINKS": "https://a,/"}),
        ("constraint", "/c", {"UV_CONSTRAINT": "/c", "UV_BUILD_CONSTRAINT": "/c"}),
        ("trusted-host", "a b:8", {"UV_INSECURE_HOST": "a b:8"}),
        ("cert", "/c", {"SSL_CERT_FILE": "/c"}),
        ("proxy", "http://p:1", {"HTTP_PROXY": "http://p:1", "HTTPS_PROXY": "http://p:1"}),
        ("default-timeout", "1.5", {"UV_HTTP_TIMEOUT": "2"}),
        ("no-cache-dir", "false", {"UV_NO_CACHE": "1"}),
        ("pre", "true", {"UV_PRERELEASE": "allow"}),
        ("pre", "0", {}),
        ("no-index", "1", {}),
        ("progress-bar", "off", {}),
    ],
)
def test_settings_as_variables(name: str, value: str, variables: dict[str, str]) -> None:
    always = {"UV_INDEX_STRATEGY": "unsafe-best-match"}
    assert uv_variables({name: value}, HERE) == always | variables


@pytest.mark.parametrize(
    ("name", "value"),
    [("keyring-provider", "import"), ("index-url", "http://a"), ("timeout", "soon"), ("new", "")],
)
def test_settings_that_are_left_to_pip(name: str, value: str) -> None:
    with pytest.raises(NotForUvError):
        uv_variables({name: value}, HERE)


def test_no_index() -> None:
    assert no_index({"no-index": "True"})
    assert not no_index({"no-index": "0"})
    assert not no_index({})


@pytest.mark.parametrize(
    "text",
    [
        "pandas==2.2 # --pre",
        "# --pre\n\n-c constraints.txt",
        "--no-index\n--find-links=a\n--extra-index-url https://a\n./a-b.whl",
        'a-b ; python_version < "4"',
    ],
)
def test_requirements_that_uv_reads_as_pip_does(text: str) -> None:
    check_requirements([text, ""])


@pytest.mark.parametrize(
    "text",
    [
        "--pre",
        "--trusted-host a",
        "-i https://a",
        "a==1 \\\n  --hash=sha256:0",
        "a --config-settings=b",
        "-e .",
        "--find-links http://a",
    ],
)
def test_requirements_that_are_left_to_pip(text: str) -> None:
    with pytest.raises(NotForUvError):
        check_requirements(["", text])
