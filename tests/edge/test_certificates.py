"""Certificates tried before Zenoh is, which would never say why: real files, a real TLS router."""

from __future__ import annotations

import datetime
import socket

import pytest

pytest.importorskip("cryptography")

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from edge.certificates import check_endpoint, check_files
from edge.settings import InferenceSettings
from serving.router import RouterSettings, open_router
from tests.network.certificates import DAY, Authority, _name
from tests.network.zenoh_nodes import free_port


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("stranger"), "another authority")


def issue(authority, folder, name, *, days=400.0, usage=ExtendedKeyUsageOID.CLIENT_AUTH):
    """A certificate of a robot that ends in so many days."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder().subject_name(_name(name)).issuer_name(authority._name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - 500 * DAY)
        .not_valid_after(now + datetime.timedelta(days=days)).add_extension(x509.ExtendedKeyUsage([usage]), False)
    )  # fmt: skip
    made = builder.sign(authority._key, hashes.SHA256())
    paths = folder / f"{name}.pem", folder / f"{name}-key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, *plain))
    return tuple(map(str, paths))


def settings(ca, certificate, key, endpoint="tls/localhost:7447"):
    return InferenceSettings(connect_endpoint=endpoint, tls_ca=ca, tls_cert=certificate, tls_key=key)


def test_a_good_pair_says_until_when_it_is_valid(authority, tmp_path):
    found = list(check_files(settings(authority.certificate, *issue(authority, tmp_path, "arm"))))
    assert found[0].outcome == "ok" and "valid until" in found[0].said and "400 days" in found[0].said
    assert [f.what for f in found[1:]] == ["inference.tls_ca"]  # the test's authority ends tomorrow
    assert found[1].outcome == "warning"


@pytest.mark.parametrize(("days", "outcome"), [(20.0, "warning"), (-1.0, "error")])
def test_the_end_of_a_certificate_is_told_before_and_after(authority, tmp_path, days, outcome):
    found, *_ = check_files(settings(authority.certificate, *issue(authority, tmp_path, "arm", days=days)))
    assert found.outcome == outcome and found.remedy.startswith("make a new")


def test_what_is_wrong_with_files_is_named(authority, stranger, tmp_path):
    arm, leg = issue(authority, tmp_path, "arm"), issue(authority, tmp_path, "leg")
    foreign = issue(stranger, tmp_path, "foreign")
    server = issue(authority, tmp_path, "server", usage=ExtendedKeyUsageOID.SERVER_AUTH)
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    cases = {
        "key of this certificate": (authority.certificate, arm[0], leg[1]),
        "correct the path": (authority.certificate, str(tmp_path / "none.pem"), arm[1]),
        "signed by tls_ca": (authority.certificate, *foreign),
        "check that the certificate": (authority.certificate, *server),  # made for servers alone
        "PEM": (authority.certificate, str(text), arm[1]),
    }
    for remedy, files in cases.items():
        found, *_ = check_files(settings(*files))
        assert found.outcome == "error" and remedy in found.remedy, (remedy, found)


def test_without_files_there_is_nothing_to_check():
    assert list(check_files(InferenceSettings())) == []


def test_a_tls_router_says_why_it_refuses(authority, stranger, tmp_path):
    endpoint = f"tls/localhost:{free_port()}"
    router = open_router(RouterSettings(listen_endpoints=[endpoint], **authority.listens("router")))
    try:
        arm, foreign = issue(authority, tmp_path, "arm"), issue(stranger, tmp_path, "foreign")
        found = check_endpoint(endpoint, settings(authority.certificate, *arm, endpoint))
        assert found.outcome == "warning" and "valid until" in found.said  # its certificate ends tomorrow
        found = check_endpoint(endpoint, settings(authority.certificate, *foreign, endpoint))
        assert found.outcome == "error" and "refuses our certificate" in found.remedy
        found = check_endpoint(endpoint, settings(stranger.certificate, *foreign, endpoint))
        assert found.outcome == "error" and "TLS" in found.said
        other = endpoint.replace("localhost", "127.0.0.2")  # a name that is not in the router's certificate
        found = check_endpoint(other, settings(authority.certificate, *arm, other))
        assert found.outcome == "error"
    finally:
        router.close()


def test_what_speaks_no_tls_is_told_from_what_does_not_answer(authority, tmp_path):
    arm = issue(authority, tmp_path, "arm")
    with socket.create_server(("127.0.0.1", 0)) as plain:
        port = plain.getsockname()[1]
        import threading

        def greet():
            connection, _ = plain.accept()
            connection.sendall(b"220 mail\r\n")
            connection.close()

        thread = threading.Thread(target=greet)
        thread.start()
        endpoint = f"tls/127.0.0.1:{port}"
        found = check_endpoint(endpoint, settings(authority.certificate, *arm, endpoint))
        thread.join()
    assert found.outcome == "error" and "does not speak TLS" in found.remedy
    endpoint = f"tls/127.0.0.1:{free_port()}"
    found = check_endpoint(endpoint, settings(authority.certificate, *arm, endpoint))
    assert found.outcome == "error" and "nobody answers" in found.said
