"""STATE_URL chooses where shared state is kept."""

import pytest

from formrelay.config import Settings
from formrelay.state import StateRedis, find_state


@pytest.mark.parametrize("url", ["memory://", "MEMORY://"])
def test_memory_keeps_state_in_this_process_in_any_spelling(url: str) -> None:
    section = Settings.load({"BROKER": "embedded", "STATE_URL": url}, env_file=None).broker
    of_broker = StateRedis(object(), "redis:6379")
    assert find_state(section, of_broker, is_ending=lambda: False) is None
