"""Hyperparameters from text, and the errors for those that cannot be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

import algos
from flowbench.common.errors import UsageError
from flowbench.plan import overrides


@dataclass(frozen=True, kw_only=True)
class Settings:
    lr: float = 0.1  # learning rate
    hidden: int = 8  # units
    constraint: bool = True
    name: str = "x"
    scheme: Literal["euler", "midpoint"] = "euler"  # rule
    order: Literal[1, 2] = 1
    clip: float | None = None
    window: int | None = 3
    gains: list[float] | None = None
    levels: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise ValueError(f"hidden must be at least 1, got {self.hidden}")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("sac", ["sac"]),
        ("sac,td3", ["sac", "td3"]),
        (" sac , td3 ", ["sac", "td3"]),
        ("flowrl[a=1,b=2],sac", ["flowrl[a=1,b=2]", "sac"]),
        ("a[x=1],a[x=2,y=3],b", ["a[x=1]", "a[x=2,y=3]", "b"]),
        ("a,,b", ["a", "", "b"]),
    ],
)
def test_commas_inside_brackets_do_not_split(text: str, parts: list[str]) -> None:
    assert overrides.split_outside_brackets(text) == parts


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("sac", ("sac", {})),
        ("sac[]", ("sac", {})),
        ("flowrl[flow_steps=5]", ("flowrl", {"flow_steps": "5"})),
        ("flowrl[flow_steps=5, constraint = false]", ("flowrl", {"flow_steps": "5", "constraint": "false"})),
        ("path/to/mine.py:Mine[lr=1e-4]", ("path/to/mine.py:Mine", {"lr": "1e-4"})),
        ("a[name=x=y]", ("a", {"name": "x=y"})),
    ],
)
def test_a_variant_is_a_name_with_overrides(text: str, parsed: tuple[str, dict[str, str]]) -> None:
    assert overrides.parse_variant(text) == parsed


@pytest.mark.parametrize(
    "text",
    ["", "[lr=1]", "sac[lr=1", "sac]lr=1[", "sac[lr=1]]", "sac[lr=1]x", "sac[lr]", "sac[=1]", "sac[lr=]", "sac[lr=1,]",
     "sac[lr=1,lr=2]"],
)  # fmt: skip
def test_a_variant_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        overrides.parse_variant(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("lr", "1e-4", 1e-4),
        ("lr", 1, 1.0),
        ("lr", "5", 5.0),
        ("hidden", "64", 64),
        ("hidden", "1_000", 1000),
        ("hidden", "1e3", 1000),
        ("hidden", 64.0, 64),
        ("hidden", str(2**53 - 1), 2**53 - 1),
        ("constraint", "false", False),
        ("constraint", "False", False),
        ("constraint", "yes", True),
        ("constraint", "0", False),
        ("constraint", True, True),
        ("name", "5", "5"),
        ("name", 5, "5"),
        ("scheme", "midpoint", "midpoint"),
        ("order", "2", 2),
        ("clip", "none", None),
        ("clip", None, None),
        ("clip", "0.5", 0.5),
        ("window", "7", 7),
    ],
)
def test_values_take_the_type_of_their_field(key: str, value: object, expected: object) -> None:
    found = overrides.typed(Settings, key, value, "here")
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("lr", "fast", "a number"),
        ("lr", None, "a number"),
        ("lr", True, "a number"),
        ("lr", [1], "a number"),
        ("hidden", "5.5", "an integer"),
        ("hidden", "inf", "an integer"),
        ("hidden", "nan", "an integer"),
        ("hidden", "many", "an integer"),
        ("hidden", True, "an integer"),
        ("constraint", "maybe", "true or false"),
        ("constraint", "2", "true or false"),
        ("scheme", "heun", "one of euler, midpoint"),
        ("order", "3", "one of 1, 2"),
        ("clip", "tight", "float"),
        ("window", "2.5", "int"),
        ("window", "inf", "int"),
    ],
)
def test_a_value_of_another_type_is_refused(key: str, value: object, wanted: str) -> None:
    with pytest.raises(UsageError) as caught:
        overrides.typed(Settings, key, value, "here")
    message = str(caught.value)
    assert message.startswith(f"here: {key}={value!r} is not ")
    assert wanted in message


def test_a_field_of_a_type_that_text_cannot_give() -> None:
    with pytest.raises(UsageError, match="levels"):
        overrides.typed(Settings, "levels", "1", "here")


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"here: unknown hyperparameter 'hiden'; did you mean 'hidden'\?"):
        overrides.typed(Settings, "hiden", "1", "here")


def test_a_value_the_dataclass_refuses_names_the_place() -> None:
    with pytest.raises(UsageError, match="here: hidden must be at least 1, got 0"):
        overrides.build(Settings, {"hidden": 0}, "here")
    assert overrides.build(Settings, {"hidden": 2}, "here").hidden == 2


@pytest.mark.parametrize("name", algos.names())
def test_every_hyperparameter_of_every_algorithm_is_described_and_can_be_set_to_its_default(name: str) -> None:
    config = algos.find(name).load().Config
    described = overrides.describe(algos.find(name).load())
    assert {field.name for field in described} == set(overrides.fields(config))
    for field in described:
        assert field.comment, f"{name}: {field.name} has no comment"
        assert field.kind in ("int", "float", "bool", "str") or " or " in field.kind
        assert overrides.typed(config, field.name, field.default, "here") == getattr(config(), field.name)


def test_an_algorithms_own_hyperparameters_come_first() -> None:
    names = [field.name for field in overrides.describe(algos.find("td3").load())]
    assert names.index("hidden") < names.index("exploration_noise") < names.index("gamma")
    assert names.index("random_steps") < names.index("gamma")  # common, but with a default of its own
