import logging
from types import SimpleNamespace
from typing import Any

import pytest

from butppg_lightning.errors import UserError
from butppg_lightning.models import hub_files


class Library:
    """Stands for huggingface_hub, which sets up its logging when the function is first asked for."""

    errors = SimpleNamespace(EntryNotFoundError=KeyError)

    @property
    def hf_hub_download(self) -> Any:
        logging.getLogger("huggingface_hub").setLevel(logging.WARNING)

        def get(name: str, file: str) -> str:
            logging.getLogger("huggingface_hub.utils").warning("retrying")
            raise OSError("no connection")

        return get


def test_the_hubs_own_warnings_do_not_stand_beside_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_files, "require", lambda name: Library())
    logger, said = logging.getLogger("huggingface_hub"), []
    handler = logging.Handler()
    handler.emit = said.append
    logger.addHandler(handler)
    try:
        with pytest.raises(UserError, match="the hub did not give it: no connection"):
            hub_files.download("ann/gate", ["model.safetensors"])
    finally:
        logger.removeHandler(handler)
    assert said == []
