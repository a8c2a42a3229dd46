"""Texts without secrets: planted ones do not come through."""

import pytest

from pytest_istio_sidecar.machine.redaction import scrub

PLANTED = "PLANTED-7f3a91c4"
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJlLXBsYW50ZWQ"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nUExBTlRFRA==\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"Authorization: Bearer {PLANTED}", PLANTED),
        (f"authorization: Basic {PLANTED}", PLANTED),
        (f"failed with bearer {PLANTED} on the way", PLANTED),
        (f"Cookie: session={PLANTED}", PLANTED),
        (f'{{"password": "{PLANTED}"}}', PLANTED),
        (f"--token={PLANTED}", PLANTED),
        (f"client-key-data: {PLANTED}", PLANTED),
        (f"https://user:{PLANTED}@example.com/", PLANTED),
        (f"a token {JWT} in a log", JWT),
        (f"before\n{PEM}\nafter", "UExBTlRFRA=="),
        ("certificate-authority-data: LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t", "LS0tLS1CRUdJTiBD"),
    ],
)
def test_what_has_the_form_of_a_secret_is_replaced_in_texts(text, secret):
    assert secret not in scrub(text)


def test_a_secret_of_this_processs_environment_is_replaced_wherever_it_stands(monkeypatch):
    monkeypatch.setenv("DEPLOY_TOKEN", PLANTED)
    assert PLANTED not in scrub(f"in the middle{PLANTED}of a word")


def test_rules_are_kept_as_they_are():
    rules = "*nat\n-A ISTIO_INBOUND -p tcp -m tcp --dport 22 -j RETURN\nCOMMIT\n"
    assert scrub(rules) == rules
