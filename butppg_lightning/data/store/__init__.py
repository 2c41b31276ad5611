"""Windows in more than memory: a folder of ``.npy`` shards and a manifest.

``train_windows.store/`` holds ``manifest.json`` and, for shard i, ``signals-0000i.npy`` ``[n, C, 1250]`` (float16 or
float32), ``subjects-0000i.npy`` ``[n]`` (int32, positions in the manifest's list of subjects; only where subjects are
known) and ``present-0000i.npy`` ``[n, C]`` (bool; only where a channel may be absent). The manifest lists, for every
shard, its windows and the size and CRC-32 of its files. It names no files: their names follow from the shard's number.

Shards are only ever added. Each is written under a temporary name, synchronised and renamed, and then the manifest is
replaced in one step, so that a writer killed at any moment leaves a readable store of the shards finished before.
"""

from butppg_lightning.data.store.layout import STORE_SUFFIX
from butppg_lightning.data.store.reader import StoredWindows, read_store
from butppg_lightning.data.store.writer import StoreWriter

__all__ = ["STORE_SUFFIX", "StoreWriter", "StoredWindows", "read_store"]
