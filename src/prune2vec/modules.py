"""The sentence-transformers module of encoders whose blocks are not all alike.

``modules.json`` of such an encoder names ``prune2vec.modules.UnevenTransformer``: this path stays as it is. With three
parts in it sentence-transformers imports the installed package and never looks for code in the encoder's folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

from sentence_transformers.sentence_transformer.modules import Transformer
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils.peft_utils import find_adapter_config_file

from prune2vec.errors import CheckpointError
from prune2vec.models.block_layout import load_uneven, read_uneven, uneven_config, uneven_layout

_CONFIG = "config.json"
_PLACE = ("cache_dir", "token", "revision", "subfolder", "local_files_only")


class UnevenTransformer(Transformer):
    """A ``Transformer`` that builds its blocks as ``per_layer_config`` says before it loads their weights, strictly."""

    @classmethod
    def load(cls, model_name_or_path: str, *args: Any, **kwargs: Any) -> Self:
        """Load the module as ``SentenceTransformer(folder, trust_remote_code=True)`` asks for it.

        The permission is for this class of the installed package: nothing that comes with the encoder is run by it.

        Raises:
            CheckpointError: The folder holds no uneven model, or its weights do not fit.
        """
        return super().load(model_name_or_path, *args, **{**kwargs, "trust_remote_code": False})

    def _load_config(self, model_name_or_path: str, backend: str, config_kwargs: dict[str, Any]) -> tuple[Any, bool]:
        if backend != "torch":
            raise CheckpointError(f"{model_name_or_path}: uneven blocks run on the torch backend only, not on {backend}")
        known = {key: value for key, value in config_kwargs.items() if key != "trust_remote_code"}
        adapter = find_adapter_config_file(model_name_or_path, **{key: known[key] for key in _PLACE if key in known})
        if adapter is not None:
            # A plain trainer's adapter, saved alone: it names the encoder that it was added to.
            self._base = str(json.loads(Path(adapter).read_text(encoding="utf-8"))["base_model_name_or_path"])
            known = {key: value for key, value in known.items() if key not in ("revision", "subfolder")}
        else:
            self._base = model_name_or_path
        entries, changes = PretrainedConfig.get_config_dict(self._base, **known)
        try:
            config, self._layout = read_uneven(entries, **changes)
        except CheckpointError as error:
            raise CheckpointError(f"{self._base}: {error}") from error
        return config, adapter is not None

    def _load_model(
        self,
        model_name_or_path: str,
        transformer_task: str,
        config: Any,
        backend: str,
        is_peft_model: bool,
        **model_kwargs: Any,
    ) -> PreTrainedModel:
        if transformer_task != "feature-extraction":
            raise CheckpointError(f"{model_name_or_path}: an encoder cannot be loaded for {transformer_task}")
        model = load_uneven(self._base, config, self._layout, **model_kwargs)
        if is_peft_model:
            model.load_adapter(model_name_or_path)
        return model

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Save the module as sentence-transformers does, with the config that tells its structure.

        With adapters, transformers saves these alone, and the folder loads while the encoder that they were added to is where
        it was: merge them first for one that loads by itself.

        Raises:
            CheckpointError: Its blocks cannot be told by a config.
        """
        adapted = getattr(self.model, "_hf_peft_config_loaded", False)
        layout = () if adapted else uneven_layout(self.model)
        super().save(output_path, *args, **kwargs)
        if layout:
            path = Path(output_path) / _CONFIG
            entries = json.loads(path.read_text(encoding="utf-8"))
            path.write_text(json.dumps(uneven_config(entries, self.model, layout), indent=2) + "\n", encoding="utf-8")
