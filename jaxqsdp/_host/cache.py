"""Compiled programs kept on disk, so that the next process need not compile them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import jax

_LEAST_SECONDS = 0.1  # of compilation that are worth a file


def enable_cache(path: str | os.PathLike[str] | None = None) -> Path | None:
    """Keep compiled programs in a folder, for this process and those to come.

    Switches on JAX's persistent compilation cache, for all programs of the process, and what XLA
    logs below "CRITICAL" off, unless `jax_logging_level` has been set. The folder may
    be deleted at any time. Programs are found again by the same versions of JAX on the same kind of
    machine. `python -m jaxqsdp` calls this itself.

    **Arguments:** `path`: the folder; by default `jaxqsdp` in the user's cache folder, unless JAX
    has been given one already, which stays.

    **Returns:** the folder in use, or None if the default one cannot be made.

    **Raises:** `OSError` if the folder of that `path` cannot be made.

    ```python
    import jaxqsdp as qs
    qs.enable_cache()
    ```
    """
    config: Any = jax.config
    given = config.jax_compilation_cache_dir
    if path is None and given is not None:
        return Path(given)
    folder = _user_folder() if path is None else Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        if path is not None:
            raise
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_SECONDS)
    if config.jax_logging_level == "NOTSET":
        # XLA of jaxlib 0.9 logs an error for each program that it reads, as it takes two of its own
        # preferences for features of the processor.
        jax.config.update("jax_logging_level", "CRITICAL")
    return folder


def _user_folder() -> Path:
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "jaxqsdp"
