"""What is kept for replay: growing, in memory or in mapped files, saved and restored.

store = ReplayStore(one, capacity=50_000, lanes=16)
store.add(transitions)  # [T, 16, …]
batch = replay.sample(store.view(), key, 256)
"""

from optinfra.store.file import StoreError as StoreError
from optinfra.store.prioritized import PrioritizedStore as PrioritizedStore
from optinfra.store.ring import ReplayStore as ReplayStore
