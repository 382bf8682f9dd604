"""TLS and mutual TLS with the deployed server, and what is said where the two ends do not agree."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chextriev.bundle import open_bundle
from chextriev.encoder import open_encoder
from chextriev.errors import UntrustedServer
from chextriev.radiograph_file import RadiographFile
from chextriev.serving.client import AsyncClient, Client, Connection, RetryPolicy, Tls
from chextriev.serving.client.tls_probe import tls_quarrel
from tests.docker.production import OUTSIDE, Production, started
from tests.export.tiny_bundle import TinyBundle
from tests.serving.small_servers import SmallTriton, served_grpc

both = pytest.mark.parametrize("kind", ["threads", "loop"])


@pytest.fixture(scope="module")
def mutual(ath_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    """The same server, for clients with a certificate alone."""
    with started(ath_repository, tmp_path_factory.mktemp("mutual"), mutual=True) as server:
        yield server


@pytest.fixture(scope="module")
def file(ath: TinyBundle) -> RadiographFile:
    return RadiographFile("secret", ath.table.image_path(0).read_bytes(), ath.table.boxes(0))


def address(server: Production) -> str:
    return f"{OUTSIDE}:{server.ports[0]}"


def embed(kind: str, address: str, file: RadiographFile, **connection: Any) -> Any:
    settings = {"system": "ath", "connection": Connection(retry=RetryPolicy(tries=1), **connection)}
    if kind == "threads":
        with Client(address, **settings) as client:
            return client.embed(file)

    async def main() -> Any:
        async with AsyncClient(address, **settings) as client:
            return await client.embed(file)

    return asyncio.run(main())


@both
def test_an_authority_of_ones_own(production: Production, ath: TinyBundle, file: RadiographFile, kind: str) -> None:
    found = embed(kind, address(production), file, tls=Tls(ca=production.secrets / "ca.crt"))
    wanted = open_encoder(open_bundle(ath.folder)).encode([file.decode()])
    np.testing.assert_array_equal(found.vectors, wanted.vectors)


@both
def test_a_certificate_of_ones_own(mutual: Production, file: RadiographFile, kind: str) -> None:
    own = {"certificate": mutual.secrets / "client.crt", "key": mutual.secrets / "client.key"}
    assert len(embed(kind, address(mutual), file, tls=Tls(ca=mutual.secrets / "ca.crt", **own))) == 1
    with pytest.raises(UntrustedServer, match=r"on a client without a certificate; .* \(request \w+, image secret\)"):
        embed(kind, address(mutual), file, tls=Tls(ca=mutual.secrets / "ca.crt"))


@both
def test_a_certificate_of_a_stranger(mutual: Production, production: Production, file: Any, kind: str) -> None:
    other = {"certificate": production.secrets / "client.crt", "key": production.secrets / "client.key"}
    with pytest.raises(UntrustedServer, match="on this client's certificate; give one that its authority has signed"):
        embed(kind, address(mutual), file, tls=Tls(ca=mutual.secrets / "ca.crt", **other))


@both
def test_an_authority_that_is_not_trusted(production: Production, mutual: Production, file: Any, kind: str) -> None:
    others = Tls(ca=mutual.secrets / "ca.crt")
    with pytest.raises(UntrustedServer, match=r"CERTIFICATE_VERIFY_FAILED.*; check the address and the certificates"):
        embed(kind, address(production), file, tls=others)
    with pytest.raises(UntrustedServer, match="CERTIFICATE_VERIFY_FAILED"):
        embed(kind, f"grpcs://{address(production)}", file)


@both
@pytest.mark.parametrize("scheme", ["grpc", "shm"])
def test_a_client_in_the_clear(production: Production, file: RadiographFile, kind: str, scheme: str) -> None:
    with pytest.raises(UntrustedServer, match=r"the server speaks TLS; connect with grpcs:// .*, image secret\)"):
        embed(kind, f"{scheme}://{address(production)}", file)


def test_a_server_that_hangs_up_for_another_reason() -> None:
    with served_grpc(SmallTriton()) as (clear, _):
        assert tls_quarrel(clear, None) is None
        assert tls_quarrel(clear, Tls()) is None
    assert tls_quarrel(clear, None) is None


def test_certificates_that_are_none(production: Production, file: RadiographFile, tmp_path: Path) -> None:
    (tmp_path / "text.pem").write_text("no certificate")
    with pytest.raises(UntrustedServer, match="check the address and the certificates"):
        embed("threads", address(production), file, tls=Tls(ca=tmp_path / "text.pem"))
