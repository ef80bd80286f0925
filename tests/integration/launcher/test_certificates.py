"""`textway certificates`: what it writes can be used as it is, and running it again renews."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography import x509

from servicekit import tls
from servicekit.settings import ProcessSettings, SettingsError
from services.launcher import certificates


def settings_of(folder: Path, holder: str) -> ProcessSettings:
    return ProcessSettings(
        tls_cert=folder / f"{holder}.crt", tls_key=folder / f"{holder}.key", tls_ca=folder / "ca.crt"
    )


def names_in(file: Path) -> set[str]:
    certificate = x509.load_pem_x509_certificate(file.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in names}


def test_every_process_gets_an_identity_that_only_this_user_can_read(tmp_path):
    written = certificates.write(tmp_path / "tls", [])

    for holder in ("integrations", "ingress", "delivery", "gateway", "up"):
        assert tls.identity(settings_of(tmp_path / "tls", holder))
    assert len(written) == 12
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "tls").iterdir()} == {0o600}
    assert stat.S_IMODE((tmp_path / "tls").stat().st_mode) == 0o700


def test_a_certificate_names_its_holder_this_machine_and_what_was_asked_for(tmp_path):
    certificates.write(tmp_path, ["ingress.example", "10.1.2.3"])

    asked_for = {"localhost", "127.0.0.1", "::1", "ingress.example", "10.1.2.3"}
    assert names_in(tmp_path / "ingress.crt") == {"ingress", *asked_for}
    assert names_in(tmp_path / "up.crt") == asked_for


def test_running_it_again_renews_and_keeps_the_authority(tmp_path):
    certificates.write(tmp_path, [])
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    certificates.write(tmp_path, [])

    kept = {file.name for file in tmp_path.iterdir() if file.read_bytes() == before[file.name]}
    assert kept == {"ca.crt", "ca.key"}
    assert tls.identity(settings_of(tmp_path, "delivery"))


def test_an_authority_whose_key_is_gone_signs_nothing(tmp_path):
    certificates.write(tmp_path, [])
    (tmp_path / "ca.key").unlink()

    with pytest.raises(SettingsError, match=r"ca\.crt and ca\.key can not be read"):
        certificates.write(tmp_path, [])


def test_an_authority_that_is_gone_is_not_replaced_by_another_in_silence(tmp_path):
    certificates.write(tmp_path, [])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "ca.crt"}
    (tmp_path / "ca.crt").unlink()

    with pytest.raises(SettingsError, match=r"ca\.crt is gone: put it back, or remove ca\.key too"):
        certificates.write(tmp_path, [])

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_refuses_a_name_that_no_certificate_can_have(tmp_path):
    with pytest.raises(SettingsError, match=r"^bücher: this is neither a name in ASCII nor an address"):
        certificates.write(tmp_path, ["bücher"])


def test_a_folder_that_can_not_be_written_to_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(SettingsError, match=r"/file/tls can not be written to \(Not a directory\)$"):
        certificates.write(tmp_path / "file" / "tls", [])
