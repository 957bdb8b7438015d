"""Tables, their entries and options, without any package installed."""

import logging
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from attnviz import entry_points, registry
from attnviz.errors import PluginError, UsageError
from attnviz.methods import METHODS, check_request, complete_settings
from attnviz.registry import Option, Table, TableEntry

HALF = Option("share", float, 0.5, "A share.", minimum=0, maximum=1)
WORDS = Option("fusion", ("mean", "max"), "mean", "How.")


@pytest.mark.parametrize("value", [0, 1, 0.25])
def test_a_value_inside_the_bounds_is_taken(value: float) -> None:
    HALF.check(value)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        (HALF, 1.5, "from 0 to 1"),
        (HALF, float("nan"), "from 0 to 1"),
        (HALF, True, "type float"),
        (HALF, "0.5", "type float"),
        (WORDS, "min", "choose from mean, max"),
        (Option("count", int, 1, "A count.", maximum=3), 4, "value to 3"),
        (Option("count", int, 1, "A count."), 1.0, "type int"),
        (Option("flag", bool, False, "A flag."), 1, "type bool"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(option: Option, value: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        option.check(value)


@pytest.mark.parametrize("name", list(METHODS))
def test_options_are_those_of_the_function(name: str) -> None:
    """Each declared option is a keyword of the code, with the same default."""
    import inspect  # noqa: PLC0415

    method = METHODS[name]
    parameters = inspect.signature(method.load_then() if method.then else method.load()).parameters
    defaults = {option.name: option.default for option in method.options}
    assert defaults.items() <= {n: each.default for n, each in parameters.items()}.items()


def test_settings_are_completed_by_the_defaults() -> None:
    assert complete_settings("rollout", {"discard": 0.9, "fusion": None, "power": 2}) == {
        "fusion": "mean", "discard": 0.9, "start_layer": 0,
    }  # fmt: skip
    assert complete_settings("attention", {}) == {}


@pytest.mark.parametrize(
    ("names", "settings", "more", "words"),
    [
        (["magic"], {}, {}, "unknown method 'magic'; choose from attention"),
        (["mass", "magic"], {}, {}, "unknown method 'magic'"),
        (["attention", "mass"], {"fusion": "max"}, {}, "attention and mass; it is for rollout"),
        (["attention"], {"colour": 1}, {}, "--colour is no option of attention; leave it out"),
        (["rollout"], {"discard": 2}, {}, "--discard 2"),
        (["received"], {}, {"query": True}, "from all tokens alike"),
        (["attention"], {}, {"targets": ["--text"]}, "--text: attention takes no gradient"),
        (["attention"], {}, {"targets": ["--target"] * 2, "importance": True}, "give one"),
    ],
)
def test_a_request_that_no_method_takes_is_refused(
    names: list[str], settings: dict[str, Any], more: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        check_request(names, settings, **more)


def test_a_request_that_one_of_several_methods_takes_is_none_to_refuse() -> None:
    check_request(["attention", "rollout"], {"fusion": "max", "keep": None})
    check_request(["received", "attention"], {}, query=True)
    check_request(["attention", "relevance"], {}, targets=["--target", "--target"])
    check_request(["attention"], {}, targets=["--target"], importance=True)


ROOT = TableEntry("math:sqrt", "the root", "Heron")


def raises(error: Exception) -> Any:
    raise error


def test_an_entry_calls_its_code() -> None:
    assert ROOT(9) == 3
    with pytest.raises(ValueError, match=r"math domain error|nonnegative"):
        ROOT(-1)


def test_the_error_of_another_package_names_it(caplog: pytest.LogCaptureFixture) -> None:
    other = TableEntry("math:sqrt", "the root", "Heron", package="roots 1.0")
    with pytest.raises(PluginError, match=r"^roots 1.0: math:sqrt fails \(ValueError: "):
        other(-1)
    assert other.run_or(7, lambda: other(-1)) == 7
    assert [record.message.startswith("attnviz: warning: roots 1.0: math:sqrt fails (ValueError")
            for record in caplog.records] == [True]  # fmt: skip
    assert other.run_or(7, lambda: other(-1)) == 7
    assert len(caplog.records) == 1  # each warning once


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("cannot allocate memory")])
def test_memory_that_has_run_out_is_no_fault_of_a_package(error: Exception) -> None:
    other = TableEntry("math:sqrt", "the root", "Heron", package="roots 1.0")
    with pytest.raises(type(error)):
        other.run(lambda: raises(error))


def test_an_own_entry_that_fails_is_no_warning() -> None:
    with pytest.raises(UsageError):
        ROOT.run_or(7, lambda: raises(UsageError("no")))


def table(monkeypatch: pytest.MonkeyPatch, *points: tuple[str, str], **more: Any) -> Table[Any]:
    found = tuple(EntryPoint(name, value, "attnviz.tests") for name, value in points)
    monkeypatch.setattr(registry, "entry_points", lambda _: found)
    monkeypatch.setattr(entry_points, "_warned", set())
    return Table("attnviz.tests", TableEntry, {"sqrt": ROOT}, **more)


def test_entries_of_other_packages_come_last(monkeypatch: pytest.MonkeyPatch) -> None:
    found = table(monkeypatch, ("cube", f"{__name__}:ROOT"))
    assert list(found) == ["sqrt", "cube"]
    assert len(found) == 2
    assert list(found.added) == ["cube"]
    assert "absent" not in found
    assert found.get("absent") is None


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("sqrt", "ROOT", "'sqrt' is taken"),
        ("map", "ROOT", "'map' is taken"),
        ("model_name", "ROOT", "'model_name' begins with model_, and pydantic"),
        ("Cube", "ROOT", "small letters"),
        ("a-b", "ROOT", "small letters"),
        ("cube", "HALF", "is no TableEntry"),
        ("cube", "ABSENT", "has no attribute 'ABSENT'"),
    ],
)
def test_an_entry_that_cannot_be_used_is_left_out(
    name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    found = table(monkeypatch, (name, f"{__name__}:{value}"), reserved=("map",), identifiers=True)
    with caplog.at_level(logging.WARNING):
        assert list(found) == ["sqrt"]
    (record,) = caplog.records
    assert words in record.message
    assert "\n" not in record.message
