from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.security.scene import Machine, Scene


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.http.close()
    scene.ctx.engine.dispose()


@pytest.fixture
def mallory(scene: Scene) -> Machine:
    """A worker in wrong hands."""
    return scene.join("mallory")


@pytest.fixture
def bob(scene: Scene) -> Machine:
    """A worker that does its work."""
    return scene.join("bob")
