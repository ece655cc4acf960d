"""A model store of one's own."""

import pytest


@pytest.fixture
def store(tmp_path):
    """An empty BentoML model store, for this test only."""
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml._internal.models import ModelStore

    folder = tmp_path / "models"
    folder.mkdir()
    BentoMLContainer.model_store.set(ModelStore(str(folder)))
    yield folder
    BentoMLContainer.model_store.reset()
