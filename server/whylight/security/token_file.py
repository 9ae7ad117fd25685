"""The operator's file of tokens: which there are, and whether the file is one to trust; lets nobody in.

It holds the SHA-256 digests of tokens, never a token. The tokens are 256 random bits, so that a fast digest is as good
as a slow one: nobody can try them all.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from whylight.security.scope import Scope

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE_BYTES = 2**20
"""Bytes in a file of tokens at most."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a token may be called: its name goes into logs and metrics."""

FORBIDDEN_MODE = stat.S_IWGRP | stat.S_IRWXO
"""What the file's mode must not allow: whoever may write it is an administrator; others need not know who is in it."""


class TokenFileError(Exception):
    """The file of tokens cannot be used; the message tells an operator why."""


def _name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError("a name has up to 64 letters, digits, dots, underscores and dashes")
    return name


def _digest(digest: str) -> bytes:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
        raise ValueError("no SHA-256 digest of 64 hexadecimal digits; `whylight token new` prints one")
    return bytes.fromhex(digest)


class Token(BaseModel):
    """One token of the file: a [[tokens]] table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, AfterValidator(_name)]
    sha256: Annotated[str, AfterValidator(lambda digest: _digest(digest).hex())]
    scopes: frozenset[Scope] = Field(min_length=1)
    expires: AwareDatetime | None = None
    calls_per_second: float | None = Field(None, gt=0, allow_inf_nan=False)
    evaluations_per_second: float | None = Field(None, gt=0, allow_inf_nan=False)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the token."""
        return _digest(self.sha256)


class _TokenFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: tuple[Token, ...] = ()


def read_token_file(path: str | Path) -> tuple[Token, ...]:
    """Read and check the tokens of a file.

    Raises:
        TokenFileError: it cannot be read, others than its owner may change it, or what is in it is not in order.
    """
    try:
        with Path(path).open("rb") as file:
            _check_mode(os.fstat(file.fileno()), path)
            data = file.read(FILE_BYTES + 1)
    except OSError as error:
        raise TokenFileError(f"{path}: {error.strerror}") from None
    if len(data) > FILE_BYTES:
        raise TokenFileError(f"{path}: more than {FILE_BYTES} bytes")
    try:
        tokens = _TokenFile.model_validate(tomllib.loads(data.decode("utf-8"))).tokens
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TokenFileError(f"{path}: not a TOML file: {error}") from None
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors(include_url=False))
        raise TokenFileError(f"{path}: {'; '.join(problems)}") from None
    for things in ([token.name for token in tokens], [token.sha256 for token in tokens]):
        twice = [thing for thing, count in Counter(things).items() if count > 1]
        if twice:
            raise TokenFileError(f"{path}: {', '.join(twice)} is there more than once")
    return tokens


def _check_mode(state: os.stat_result, path: str | Path) -> None:
    if os.name == "nt":
        return
    if not stat.S_ISREG(state.st_mode):
        raise TokenFileError(f"{path}: not a file")
    if state.st_uid not in (0, os.geteuid()):
        raise TokenFileError(f"{path}: belongs to neither root nor the user of this server")
    if state.st_mode & FORBIDDEN_MODE:
        mode = stat.S_IMODE(state.st_mode)
        raise TokenFileError(f"{path}: mode {mode:04o} lets others in; chmod 600 (or 640 for a group that may read it)")
