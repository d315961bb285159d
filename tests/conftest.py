"""Settings shared by all tests: offline, few threads, no waiting in spin loops. Set before any library reads them."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from hypothesis import settings

# On a busy machine an example takes what it takes; how long a test may take is pytest's to say.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
