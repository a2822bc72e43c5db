"""scripts/venvs.py reads the lower bounds of setup.cfg and pip's configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.venvs import oldest_pins, uv_environment

ROOT = Path(__file__).resolve().parent.parent.parent


def test_pins_are_the_lower_bounds_of_setup_cfg() -> None:
    pins = dict(pin.split("==") for pin in oldest_pins((ROOT / "setup.cfg").read_text()))
    assert sorted(pins) == ["dramatiq", "pika", "pydantic", "redis"]
    # The oldest versions in the README and in the extra dramatiq-dashboard.
    assert (pins["dramatiq"], pins["redis"]) == ("1.18", "4.6")


def test_a_missing_lower_bound_is_an_error_that_names_the_dependency(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = (ROOT / "setup.cfg").read_text().replace("pika>=1.3", "pika")
    with pytest.raises(SystemExit):
        oldest_pins(text)
    assert "no lower bound for pika" in capsys.readouterr().err


def test_uv_gets_the_indexes_and_options_of_pip() -> None:
    index = "index_url".replace("_", "-")
    config = "\n".join(
        [
            ":env:.find-links='/wheels /more'",
            ":env:.no-cache-dir='1'",
            f"global.extra-{index}='\\nhttps://one.test\\nhttps://two.test'",
            "global.find-links='/others'",
            f"global.{index}='https://general.test'",
            f"install.{index}='https://install.test'",
        ]
    )
    found = uv_environment(config, {"UV_INDEX": "https://own.test", "HOME": "/home"})
    assert found == {
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": "/wheels,/more",
        "UV_DEFAULT_INDEX": "https://install.test",
        "UV_INDEX": "https://own.test",
        "HOME": "/home",
    }
