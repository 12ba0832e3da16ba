"""Kinds of option values: read from text and from TOML, and shown.

Every reader raises ValueError with a message that says which values are accepted. Knows no
option.
"""

from __future__ import annotations

import contextlib
import ipaddress
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
    """The values of an option. `metavar` is empty for a switch."""

    @property
    def metavar(self) -> str: ...

    @property
    def accepts(self) -> str:
        """Return the accepted values, as the documentation says them."""
        ...

    def text(self, value: str) -> _Value:
        """Read the value of a flag or a variable."""
        ...

    def toml(self, value: object) -> _Value:
        """Read a value of the config file."""
        ...

    def show(self, value: _Value) -> str:
        """Return the value for people, with its unit."""
        ...


class Switch:
    metavar = ""
    accepts = "on or off"

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
    """A time from `least` to `most`, or 0 with the meaning `zero`."""

    metavar = "SECONDS"

    def __init__(self, least: float, most: float, zero: str = "") -> None:
        self.least = least
        self.most = most
        self._zero = zero

    @property
    def accepts(self) -> str:
        text = f"{self.least:g} to {self.most:g} seconds"
        return f"{text}, or 0 ({self._zero})" if self._zero else text

    def text(self, value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        return self._checked(number, value)

    def toml(self, value: object) -> float:
        number = math.nan
        if isinstance(value, int | float) and not isinstance(value, bool):
            with contextlib.suppress(OverflowError):
                number = float(value)
        return self._checked(number, value)

    def _checked(self, number: float, value: object) -> float:
        # Every comparison with nan is false.
        if self.least <= number <= self.most:
            return abs(number)  # -0.0 is 0
        if number == 0 and self._zero:
            return 0.0
        raise ValueError(f"{_brief(value)} is not a time of {self.accepts}")

    def show(self, value: float) -> str:
        return f"{value:g} s"


class Count:
    """A whole number from `least` to `most`."""

    metavar = "NUMBER"

    def __init__(self, least: int, most: int) -> None:
        self.least = least
        self.most = most

    @property
    def accepts(self) -> str:
        return f"{self.least} to {self.most}"

    def text(self, value: str) -> int:
        number: object = value
        with contextlib.suppress(ValueError):
            number = int(value)
        return self._checked(number, value)

    def toml(self, value: object) -> int:
        return self._checked(value, value)

    def _checked(self, number: object, value: object) -> int:
        if (
            isinstance(number, int)
            and not isinstance(number, bool)
            and self.least <= number <= self.most
        ):
            return number
        raise ValueError(f"{_brief(value)} is not a whole number from {self.accepts}")

    def show(self, value: int) -> str:
        return str(value)


class Choice:
    def __init__(self, *choices: str) -> None:
        self.choices = choices

    @property
    def metavar(self) -> str:
        return "|".join(self.choices)

    @property
    def accepts(self) -> str:
        return ", ".join(self.choices)

    def text(self, value: str) -> str:
        return self.toml(value)

    def toml(self, value: object) -> str:
        if not isinstance(value, str) or value not in self.choices:
            raise ValueError(f"{_brief(value)} is not one of: {self.accepts}")
        return value

    def show(self, value: str) -> str:
        return value


class Path:
    metavar = "PATH"
    accepts = "a path"

    def __init__(self, default: str = "") -> None:
        self._default = default

    def text(self, value: str) -> str:
        if not value or "\0" in value:
            raise ValueError(f"{_brief(value)} is not a path")
        return os.path.abspath(value)

    def toml(self, value: object) -> str:
        if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
            raise ValueError(f"{_brief(value)} is not an absolute path")
        return os.path.normpath(value)

    def show(self, value: str) -> str:
        return value or self._default


class Address:
    """Where to listen: ADDRESS:PORT, the path of a socket, or nowhere ("")."""

    metavar = "ADDRESS"
    accepts = "ADDRESS:PORT, [ADDRESS]:PORT, the absolute path of a unix socket, or off"

    def text(self, value: str) -> str:
        if value == "off":
            return ""
        if value.startswith("/") and "\0" not in value:
            return os.path.normpath(value)
        host, _, port = value.rpartition(":")
        with contextlib.suppress(ValueError):
            if host.startswith("[") and host.endswith("]"):
                ipaddress.IPv6Address(host[1:-1])
            else:
                ipaddress.IPv4Address(host)
            if port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16:
                return value
        raise ValueError(f"{_brief(value)} is not {self.accepts}")

    def toml(self, value: object) -> str:
        return self.text(value if isinstance(value, str) else repr(value))

    def show(self, value: str) -> str:
        return value or "off"


class FuseOptions:
    metavar = "OPTIONS"
    accepts = "mount options"

    def text(self, value: str) -> tuple[str, ...]:
        return self.toml(value.split(","))

    def toml(self, value: object) -> tuple[str, ...]:
        if isinstance(value, str):
            value = value.split(",")
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ValueError(f"{_brief(value)} is not a list of mount options")
        options = tuple(item.strip() for item in value if item.strip())
        for option in options:
            name = option.partition("=")[0]
            if name not in FUSE_OPTIONS:
                import difflib  # slow to load, and seldom needed

                close = difflib.get_close_matches(name, sorted(FUSE_OPTIONS), n=1, cutoff=0.5)
                hint = f", did you mean '{close[0]}'?" if close else ""
                raise ValueError(f"unknown mount option {_brief(name)}{hint}")
        return options

    def show(self, value: tuple[str, ...]) -> str:
        return ",".join(value) or "none"


def _brief(value: object) -> str:
    """Return the value for a message of one line."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:76]} ..."
