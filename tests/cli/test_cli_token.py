"""``whylight token``: the token is shown once, and what is kept of it opens nothing."""

from __future__ import annotations

import stat

from whylight.security import Access, Scope


def test_the_printed_token_opens_a_server_that_has_the_printed_lines(whylight_command, tmp_path):
    made = whylight_command("token", "new", "--name", "ci", "--scopes", "explain,catalog", "--days", 30)
    assert made.code == 0, made.err
    token, _, lines = made.out.partition("\n\n")
    path = tmp_path / "tokens.toml"
    path.write_text(lines)
    path.chmod(0o600)
    caller = Access(path).check(token, Scope.EXPLAIN)
    assert (caller.name, caller.scopes) == ("ci", {Scope.EXPLAIN, Scope.CATALOG})
    assert token not in lines


def test_a_saved_token_is_not_printed_and_no_file_is_written_over(whylight_command, tmp_path):
    kept = tmp_path / "ci.token"
    made = whylight_command("token", "new", "--name", "ci", "--scopes", "admin", "--save", kept)
    assert made.code == 0, made.err
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    path = tmp_path / "tokens.toml"
    path.write_text(made.out)
    path.chmod(0o600)
    assert Access(path).check(kept.read_text().strip(), Scope.ADMIN).name == "ci"
    again = whylight_command("token", "new", "--name", "ci", "--save", kept)
    assert (again.code, "File exists" in again.err) == (2, True)


def test_what_is_no_scope_and_no_name_is_refused(whylight_command):
    assert (
        "there are explain, catalog, admin, metrics"
        in whylight_command("token", "new", "--name", "a", "--scopes", "x").err
    )
    assert whylight_command("token", "new", "--name", "a b").code == 2
