"""The list of peers, and what they are installed of."""

from __future__ import annotations

import pytest

from load_tests.peers import all_peers
from load_tests.peers.recipes import RECIPES, Recipe
from load_tests.peers.venvs import REQUIREMENTS
from load_tests.server import Encoding


def test_every_peer_has_a_name_of_its_own_and_reads_json() -> None:
    peers = all_peers()
    assert len({peer.name for peer in peers}) == len(peers) == len(RECIPES)
    assert all(Encoding.JSON in peer.encodings for peer in peers)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_everything_a_peer_is_installed_of_is_pinned(recipe: Recipe) -> None:
    text = (REQUIREMENTS / f"{recipe.environment}.txt").read_text()
    pins = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all("==" in pin for pin in pins)
    names = {pin.partition("==")[0].partition("[")[0] for pin in pins}
    assert {recipe.distribution, "onnxruntime", "numpy"} <= names
