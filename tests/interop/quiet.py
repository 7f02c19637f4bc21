"""Imported first: keeps the pinned peers from the network and from printing progress bars and deprecations."""

import logging
import os
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
warnings.filterwarnings("ignore")
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

from transformers.utils import logging as transformers_logging  # noqa: E402

transformers_logging.disable_progress_bar()
