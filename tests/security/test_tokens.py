"""Tokens, their file, and who is let in by them."""

from __future__ import annotations

import datetime
import hashlib
import logging
import os
from pathlib import Path

import pytest

from whylight.errors import PermissionDenied, Unauthenticated
from whylight.security import Access, Scope, TokenFileError, bearer_token
from whylight.security.new_token import new_token
from whylight.security.token_file import FILE_BYTES, read_token_file

NOON = datetime.datetime(2026, 11, 21, 12, tzinfo=datetime.timezone.utc)


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.toml"


def test_a_token_is_good_for_its_scopes_only(path):
    ci, admin = new_token("ci", ["explain", "catalog"]), new_token("ops", ["admin"])
    access = Access(write(path, ci.lines + admin.lines))
    assert access.check(ci.token, Scope.EXPLAIN).name == "ci"
    assert access.check(ci.token, Scope.CATALOG).scopes == {Scope.EXPLAIN, Scope.CATALOG}
    assert access.check(admin.token, Scope.ADMIN).name == "ops"
    for token, scope in ((ci.token, Scope.ADMIN), (ci.token, Scope.METRICS), (admin.token, Scope.EXPLAIN)):
        with pytest.raises(PermissionDenied) as caught:
            access.check(token, scope)
        assert (caught.value.reason, caught.value.metadata) == ("SCOPE_MISSING", {"scope": scope.value})


@pytest.mark.parametrize(
    ("token", "reason"),
    [(None, "TOKEN_MISSING"), ("", "TOKEN_MISSING"), ("whylight_guess", "TOKEN_INVALID"), ("\udcff", "TOKEN_INVALID")],
)
def test_no_token_and_a_wrong_one_are_refused(path, token, reason):
    access = Access(write(path, new_token("ci", ["explain"]).lines))
    with pytest.raises(Unauthenticated) as caught:
        access.check(token, Scope.EXPLAIN)
    assert caught.value.reason == reason


def test_the_digest_is_no_token(path):
    made = new_token("ci", ["explain"])
    access = Access(write(path, made.lines))
    with pytest.raises(Unauthenticated):
        access.check(hashlib.sha256(made.token.encode()).hexdigest(), Scope.EXPLAIN)


def test_an_expired_token_is_answered_as_an_unknown_one_and_the_log_knows_its_name(path, caplog):
    now = [NOON.timestamp() - 1]
    made = new_token("ci", ["explain"], expires=NOON)
    access = Access(write(path, made.lines), clock=lambda: now[0])
    assert access.check(made.token, Scope.EXPLAIN).name == "ci"
    now[0] += 1
    answers = []
    for token in (made.token, "whylight_unknown"):
        with pytest.raises(Unauthenticated) as caught:
            access.check(token, Scope.ADMIN)
        answers.append((str(caught.value), caught.value.reason, caught.value.metadata))
    assert answers[0] == answers[1]
    assert "ci has expired" in caplog.text
    assert made.token not in caplog.text


def test_every_entry_is_compared_whatever_is_found(path, monkeypatch):
    made = [new_token(f"caller-{index}", ["explain"]) for index in range(5)]
    access = Access(write(path, "".join(one.lines for one in made)))
    compared = []
    import hmac

    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))
    assert access.check(made[0].token, Scope.EXPLAIN).name == "caller-0"
    assert len(compared) == 5


def test_without_a_file_everybody_may_everything_but_administer():
    access = Access()
    assert not access.needs_token
    for scope in (Scope.EXPLAIN, Scope.CATALOG, Scope.METRICS):
        assert access.check(None, scope).name == "anonymous"
    with pytest.raises(PermissionDenied) as caught:
        access.check("anything", Scope.ADMIN)
    assert caught.value.reason == "TOKENS_OFF"


def test_an_empty_file_lets_nobody_in(path):
    with pytest.raises(Unauthenticated):
        Access(write(path, "")).check("whylight_x", Scope.CATALOG)


def test_reloading_takes_new_tokens_and_drops_old_ones(path):
    old, new = new_token("old", ["explain"]), new_token("new", ["explain"])
    access = Access(write(path, old.lines))
    write(path, new.lines)
    access.reload()
    assert access.check(new.token, Scope.EXPLAIN).name == "new"
    with pytest.raises(Unauthenticated):
        access.check(old.token, Scope.EXPLAIN)


def test_a_file_that_became_useless_changes_nothing(path, caplog):
    made = new_token("ci", ["explain"])
    access = Access(write(path, made.lines))
    write(path, "[[tokens]]\nname = ")
    access.reload()
    assert access.check(made.token, Scope.EXPLAIN).name == "ci"
    assert any(record.levelno == logging.ERROR and "stay as they were" in record.message for record in caplog.records)


@pytest.mark.parametrize("mode", [0o604, 0o620, 0o602, 0o666, 0o644])
def test_a_file_that_others_may_read_or_change_is_refused(path, mode):
    with pytest.raises(TokenFileError, match="chmod 600"):
        read_token_file(write(path, new_token("ci", ["explain"]).lines, mode))


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
def test_its_owner_and_a_group_may_read_it(path, mode):
    (token,) = read_token_file(write(path, new_token("ci", ["explain"]).lines, mode))
    assert token.name == "ci"


DIGEST = "a" * 64


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tokens = 3", "tokens"),
        ("[[tokens]]\nname = 'a'", "sha256: Field required"),
        (f"[[tokens]]\nname = 'a'\nsha256 = '{DIGEST[1:]}'\nscopes = ['explain']", "64 hexadecimal"),
        (f"[[tokens]]\nname = 'a b'\nsha256 = '{DIGEST}'\nscopes = ['explain']", "letters, digits"),
        (f"[[tokens]]\nname = 'a'\nsha256 = '{DIGEST}'\nscopes = []", "scopes"),
        (f"[[tokens]]\nname = 'a'\nsha256 = '{DIGEST}'\nscopes = ['root']", "scopes"),
        (
            f"[[tokens]]\nname = 'a'\nsha256 = '{DIGEST}'\nscopes = ['explain']\nexpires = 2027-01-01T00:00:00",
            "expires",
        ),
        (f"[[tokens]]\nname = 'a'\nsha256 = '{DIGEST}'\nscopes = ['explain']\ntoken = 'x'", "token"),
        (
            f"[[tokens]]\nname = 'a'\nsha256 = '{DIGEST}'\nscopes = ['explain']\ncalls_per_second = nan",
            "calls_per_second",
        ),
        (f"[[tokens]]\nname = 'a'\nsha256 = '{DIGEST}'\nscopes = ['explain']\n" * 2, "more than once"),
        ("[[tokens]", "not a TOML file"),
        ("#" * (FILE_BYTES + 1), "more than"),
    ],
)
def test_a_file_that_is_not_in_order_says_what_is_wrong(path, text, says):
    with pytest.raises(TokenFileError, match=says):
        read_token_file(write(path, text))


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(TokenFileError, match="No such file"):
        Access(tmp_path / "absent")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(TokenFileError):
        Access(tmp_path)


def test_tokens_are_long_and_never_the_same():
    made = [new_token("n", ["explain"]) for _ in range(50)]
    assert len({one.token for one in made}) == 50
    assert all(one.token.startswith("whylight_") and len(one.token) == len("whylight_") + 43 for one in made)
    assert all(one.token not in one.lines and one.token not in repr(one) for one in made)


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer abc", "abc"),
        ("bearer  abc ", "abc"),
        ("Basic abc", None),
        ("Bearer", None),
        ("Bearer ", None),
        ("", None),
        (None, None),
    ],
)
def test_a_token_is_read_from_a_header(header, token):
    assert bearer_token(header) == token
