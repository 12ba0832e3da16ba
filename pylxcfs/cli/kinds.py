"""Kinds of option values: how each is read from text and from TOML, and shown.

Every reader raises ValueError with a message that says what was expected. Knows no option.
"""

from __future__ import annotations

import math
import os
from typing import Protocol, TypeVar

_Value = TypeVar("_Value")

#: libfuse's mount options that LXCFS's users pass; see the option `-o`.
FUSE_OPTIONS = frozenset(
    {
        "ac_attr_timeout",
        "allow_other",
        "allow_root",
        "atime",
        "attr_timeout",
        "auto_cache",
        "auto_unmount",
        "clone_fd",
        "debug",
        "default_permissions",
        "dev",
        "direct_io",
        "entry_timeout",
        "exec",
        "fsname",
        "hard_remove",
        "intr",
        "kernel_cache",
        "large_read",
        "max_background",
        "max_idle_threads",
        "max_read",
        "negative_timeout",
        "noatime",
        "noauto_cache",
        "nodev",
        "noexec",
        "noforget",
        "nonempty",
        "nosuid",
        "ro",
        "rw",
        "subtype",
        "suid",
    }
)

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off", ""})


class Kind(Protocol[_Value]):
    """What an option takes. `metavar` is empty for a switch."""

    @property
    def metavar(self) -> str: ...

    def text(self, value: str) -> _Value:
        """Read a flag's or a variable's value."""
        ...

    def toml(self, value: object) -> _Value:
        """Read a value of the config file."""
        ...

    def show(self, value: _Value) -> str:
        """Return the value for people, with its unit."""
        ...


class Switch:
    metavar = ""

    def text(self, value: str) -> bool:
        if value.lower() not in _TRUE | _FALSE:
            raise ValueError(f"'{value}' is neither 1 (on) nor 0 (off)")
        return value.lower() in _TRUE

    def toml(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise ValueError(f"{value!r} is not true or false")
        return value

    def show(self, value: bool) -> str:
        return "on" if value else "off"


class Seconds:
    metavar = "SECONDS"

    def text(self, value: str) -> float:
        try:
            return self._checked(float(value))
        except ValueError:
            raise ValueError(f"'{value}' is not a number of seconds, 0 or more") from None

    def toml(self, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{value!r} is not a number of seconds")
        try:
            return self._checked(float(value))
        except (ValueError, OverflowError):
            raise ValueError(f"{value!r} is not a number of seconds, 0 or more") from None

    def _checked(self, value: float) -> float:
        if not (math.isfinite(value) and value >= 0):
            raise ValueError
        return value

    def show(self, value: float) -> str:
        return f"{value:g} s"


class Count:
    metavar = "NUMBER"

    def __init__(self, least: int) -> None:
        self._least = least

    def text(self, value: str) -> int:
        try:
            number = int(value)
        except ValueError:
            raise ValueError(f"'{value}' is not a whole number") from None
        return self.toml(number)

    def toml(self, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{value!r} is not a whole number")
        if value < self._least:
            raise ValueError(f"{value} is less than {self._least}")
        return value

    def show(self, value: int) -> str:
        return str(value)


class Choice:
    def __init__(self, *choices: str) -> None:
        self.choices = choices

    @property
    def metavar(self) -> str:
        return "|".join(self.choices)

    def text(self, value: str) -> str:
        return self.toml(value)

    def toml(self, value: object) -> str:
        if not isinstance(value, str) or value not in self.choices:
            raise ValueError(f"{value!r} is not one of: {', '.join(self.choices)}")
        return value

    def show(self, value: str) -> str:
        return value


class Path:
    metavar = "PATH"

    def __init__(self, default: str = "") -> None:
        self._default = default

    def text(self, value: str) -> str:
        if not value or "\0" in value:
            raise ValueError("a path is expected, and it is empty")
        return os.path.abspath(value)

    def toml(self, value: object) -> str:
        if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
            raise ValueError(f"{value!r} is not an absolute path")
        return os.path.normpath(value)

    def show(self, value: str) -> str:
        return value or self._default


class FuseOptions:
    metavar = "OPTIONS"

    def text(self, value: str) -> tuple[str, ...]:
        return self.toml(value.split(","))

    def toml(self, value: object) -> tuple[str, ...]:
        if isinstance(value, str):
            value = value.split(",")
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ValueError(f"{value!r} is not a list of mount options")
        options = tuple(item.strip() for item in value if item.strip())
        for option in options:
            name = option.partition("=")[0]
            if name not in FUSE_OPTIONS:
                import difflib  # slow to load, and seldom needed

                close = difflib.get_close_matches(name, sorted(FUSE_OPTIONS), n=1, cutoff=0.5)
                hint = f", did you mean '{close[0]}'?" if close else ""
                raise ValueError(f"unknown mount option '{name}'{hint}")
        return options

    def show(self, value: tuple[str, ...]) -> str:
        return ",".join(value) or "none"
