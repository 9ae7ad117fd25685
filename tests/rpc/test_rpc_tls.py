"""TLS on a real socket: who is let in, who is not, which versions, and certificates that change while it runs."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import warnings
from pathlib import Path

import grpc
import pytest
from rpc_certificates import Authority, authority
from rpc_serving import serving

from whylight.client import AsyncClient, Client
from whylight.errors import Unauthenticated, Unavailable, WhylightError
from whylight.rpc.server import RpcServer
from whylight.security.certificates import CertificateError, Certificates
from whylight.security.new_token import new_token
from whylight.settings import Settings


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> Authority:
    return authority(tmp_path_factory.mktemp("certificates") / "ours")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> Authority:
    return authority(tmp_path_factory.mktemp("certificates") / "theirs")


@pytest.fixture
def tls(ours: Authority) -> dict[str, str]:
    certificate, key = ours.issue("server")
    return {"certificate": str(certificate), "key": str(key)}


async def ask(address: str, **settings) -> list[str]:
    async with AsyncClient(address, deadline=20, options={"grpc.enable_retries": 0}, **settings) as client:
        return [method.name for method in await client.methods()]


async def test_a_client_that_trusts_the_authority_is_served(tls, ours):
    async with serving(tls=tls) as served:
        assert await ask(served.address, ca=ours.ca) == ["cam", "grad-cam", "saliency"]


async def test_plain_text_and_strange_authorities_are_refused_and_hurt_nobody(tls, ours, theirs):
    async with serving(tls=tls) as served:
        for settings in ({}, {"ca": theirs.ca}, {"tls": True}):
            with pytest.raises(Unavailable):
                await ask(served.address, **settings)
        host, _, port = served.address.rpartition(":")
        for rubbish in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\0" * 100):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(rubbish)
            writer.write_eof()
            await reader.read()  # the server ends it
            writer.close()
        assert await ask(served.address, ca=ours.ca)


async def test_a_client_certificate_is_asked_for_and_must_be_of_the_right_authority(tls, ours, theirs):
    mine, my_key = ours.issue("client")
    strange, strange_key = theirs.issue("client")
    async with serving(tls={**tls, "client_ca": str(ours.ca)}) as served:
        assert await ask(served.address, ca=ours.ca, certificate=mine, key=my_key)
        for settings in ({}, {"certificate": strange, "key": strange_key}):
            with pytest.raises(Unavailable):
                await ask(served.address, ca=ours.ca, **settings)


async def test_tokens_are_asked_for_within_tls(tls, ours, tmp_path):
    made = new_token("ci", ["catalog"])
    path = tmp_path / "tokens.toml"
    path.write_text(made.lines)
    path.chmod(0o600)
    async with serving(tls=tls, authentication={"tokens_file": str(path)}) as served:
        assert await ask(served.address, ca=ours.ca, token=made.token)
        with pytest.raises(Unauthenticated):
            await ask(served.address, ca=ours.ca)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_only_safe_versions_are_spoken(tls, ours):
    def version(highest: ssl.TLSVersion) -> str | None:
        context = ssl.create_default_context(cafile=str(ours.ca))
        context.set_ciphers("ALL:@SECLEVEL=0")  # so that this side would take the old ones
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, highest
        context.set_alpn_protocols(["h2"])
        host, _, port = served.address.rpartition(":")
        with (
            socket.create_connection((host, int(port)), 20) as plain,
            context.wrap_socket(plain, server_hostname=host) as it,
        ):
            return it.version()

    async with serving(tls=tls) as served:
        assert await asyncio.to_thread(version, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
        assert await asyncio.to_thread(version, ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
        with pytest.raises(OSError, match=r"(?i)eof|reset|protocol|version"), warnings.catch_warnings():
            await asyncio.to_thread(version, ssl.TLSVersion.TLSv1_1)


def replace(source: tuple[Path, Path], tls: dict[str, str]) -> None:
    """Rotate as careful tools do: write beside it, and move it into place."""
    for path, name in zip(source, ("certificate", "key"), strict=True):
        beside = Path(tls[name] + ".new")
        shutil.copy(path, beside)
        beside.replace(tls[name])


async def test_a_new_certificate_is_used_for_the_next_connection(ours, theirs, tmp_path):
    certificate, key = ours.issue("server")
    tls = {"certificate": str(tmp_path / "tls.crt"), "key": str(tmp_path / "tls.key")}
    replace((certificate, key), tls)
    async with serving(tls=tls) as served, AsyncClient(served.address, ca=ours.ca) as before:
        assert await before.methods()
        Path(tls["key"]).write_text("half a k")  # as though a rotation had just begun
        assert await ask(served.address, ca=ours.ca)
        replace(theirs.issue("server"), tls)
        assert await ask(served.address, ca=theirs.ca)
        with pytest.raises(Unavailable):
            await ask(served.address, ca=ours.ca)
        assert await before.methods()  # what is open stays open


def test_files_that_do_not_fit_are_refused_with_a_reason(ours, theirs, tmp_path):
    certificate, key = ours.issue("server")
    other, _ = theirs.issue("other")
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("no certificate")
    readable = tmp_path / "readable.key"
    shutil.copy(key, readable)
    readable.chmod(0o644)
    for paths, says in (
        ((other, key), "the key is the certificate's"),
        ((rubbish, key), "all are PEM"),
        ((certificate, tmp_path / "absent.key"), "No such file"),
        ((certificate, readable), "chmod 600"),
        ((certificate, key, rubbish), "all are PEM"),
    ):
        with pytest.raises(CertificateError, match=says):
            Certificates(*paths)


def test_what_failed_is_told_until_the_files_are_whole_again_be_they_new_or_the_former_ones(ours, theirs, tmp_path):
    """As in Kubernetes, the names are links to a folder of one rotation, which are moved to that of the next."""
    good, bad, better = (tmp_path / name for name in ("good", "bad", "better"))
    for folder, source in ((good, ours), (bad, ours), (better, theirs)):
        folder.mkdir()
        for path, name in zip(source.issue("server"), ("tls.crt", "tls.key"), strict=True):
            shutil.copy(path, folder / name)
    (bad / "tls.key").write_text("half a k")
    data = tmp_path / "data"
    data.symlink_to(good)
    certificates = Certificates(data / "tls.crt", data / "tls.key")

    def rotate(folder: Path) -> str:
        beside = tmp_path / "beside"
        beside.symlink_to(folder)
        beside.replace(data)
        certificates.refresh()
        return certificates.failed

    first = certificates.identity
    assert "all are PEM" in rotate(bad)
    assert rotate(good) == ""
    assert certificates.identity is first
    assert "all are PEM" in rotate(bad), "the same failure is a new one"
    assert rotate(better) == ""
    assert certificates.identity.chain == (better / "tls.crt").read_bytes()


def test_an_encrypted_key_is_refused_and_asks_nobody(ours, tmp_path):
    from rpc_certificates import openssl

    certificate, key = ours.issue("server")
    shutil.copy(key, tmp_path / "plain.key")
    openssl(tmp_path, "ec -in plain.key -aes256 -passout pass:secret -out locked.key")
    (tmp_path / "locked.key").chmod(0o600)
    with pytest.raises(CertificateError, match="encrypted"):
        Certificates(certificate, tmp_path / "locked.key")


async def test_a_server_does_not_start_with_certificates_that_cannot_be_used(tmp_path):
    tls = {"certificate": str(tmp_path / "absent.pem"), "key": str(tmp_path / "absent.key")}
    with pytest.raises(CertificateError):
        RpcServer(Settings(tls=tls), backend=None)


async def test_a_token_never_leaves_in_the_clear(tls):
    for client in (AsyncClient, Client):
        with pytest.raises(ValueError, match="in the clear"):
            client("explain.example.com:50051", token="secret")
    with pytest.raises(ValueError, match="credentials say it all"):
        AsyncClient("localhost:1", tls=True, credentials=grpc.ssl_channel_credentials())


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"tls": {"certificate": "a"}}, "certificate and key come together"),
        ({"tls": {"client_ca": "a"}}, "client_ca needs a certificate"),
        ({"tls": {"certificate": "a", "key": "b", "ends_elsewhere": True}}, "ends_elsewhere says"),
        ({"server": {"host": "0.0.0.0"}, "authentication": {"tokens_file": "t"}}, "in the clear"),
        ({"server": {"host": "::"}, "authentication": {"tokens_file": "t"}}, "in the clear"),
        ({"server": {"host": "explain.example.com"}, "authentication": {"tokens_file": "t"}}, "in the clear"),
    ],
)
def test_settings_that_would_give_tokens_away_are_refused(sections, says):
    with pytest.raises(ValueError, match=says):
        Settings(**sections)


@pytest.mark.parametrize(
    "sections",
    [
        {"server": {"host": "127.0.0.1"}, "authentication": {"tokens_file": "t"}},
        {"server": {"host": "::1"}, "authentication": {"tokens_file": "t"}},
        {"server": {"host": "0.0.0.0"}, "authentication": {"tokens_file": "t"}, "tls": {"ends_elsewhere": True}},
        {
            "server": {"host": "0.0.0.0"},
            "authentication": {"tokens_file": "t"},
            "tls": {"certificate": "a", "key": "b"},
        },
    ],
)
def test_settings_that_keep_tokens_safe_are_taken(sections):
    Settings(**sections)


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({}, ["OPEN TO THE NETWORK", "no encryption", "no tokens"]),
        ({"tls": {"ends_elsewhere": True}}, ["OPEN TO THE NETWORK", "no tokens"]),
        ({"tls": {"certificate": "a", "key": "b"}}, ["OPEN TO THE NETWORK", "no tokens"]),
        ({"tls": {"certificate": "a", "key": "b", "client_ca": "c"}}, []),
        ({"tls": {"ends_elsewhere": True}, "authentication": {"tokens_file": "t"}}, []),
    ],
)
def test_a_server_that_others_can_reach_says_what_is_missing(sections, says, caplog):
    from whylight.serve import _warn_if_open

    _warn_if_open(Settings(server={"host": "0.0.0.0"}, **sections))
    assert all(text in caplog.text for text in says)
    assert bool(says) == bool(caplog.text)
    assert ("no encryption" in caplog.text) == ("no encryption" in says)


@pytest.mark.parametrize(("window", "warned"), [(31, True), (32, False)])
def test_a_server_whose_streams_cannot_fill_a_batch_says_so(window: int, warned: bool, caplog):
    from whylight.serve import _warn_if_streams_are_narrow

    _warn_if_streams_are_narrow(Settings(server={"stream_window": window}, batching={"max_batch": 32}))
    assert ("server.stream_window (31)" in caplog.text) == warned


async def test_errors_of_the_connection_are_typed(tls):
    async with serving(tls=tls) as served:
        with pytest.raises(WhylightError) as caught:
            await ask(served.address)
        assert caught.value.reason == "UNAVAILABLE"
