"""What may be saved, and what a user is told about what may not."""

from __future__ import annotations

import pytest

from servicekit.errors import ValidationError
from servicekit.json_paths import compile_path
from services.integrations import validation
from services.integrations.domain import NO_DEDUPE, Dedupe, IntegrationChanges
from services.integrations.load_presets import presets


def kept(**fields):
    return validation.changed_fields(IntegrationChanges(**fields))


def issues_of(**fields):
    with pytest.raises(ValidationError) as caught:
        kept(**fields)
    return caught.value.issues


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("shop", "shop"),
        ("  shop\t", "shop"),
        ("x" * 100, "x" * 100),
        ("注文 システム", "注文 システム"),
        ("a\u3000b", "a\u3000b"),
        ("👩‍👧", "👩‍👧"),
    ],
)
def test_keeps_a_name_trimmed(given, name):
    assert kept(name=given).name == name


@pytest.mark.parametrize("name", ["", " \n ", "x" * 101, "a\x00b", "a\nb", "a\u202eb", "\u200d", "\ue000"])
def test_refuses_a_name(name):
    assert [issue.path for issue in issues_of(name=name)] == ["name"]


@pytest.mark.parametrize("path", ["to", "customer.phone", "items[-1]", '["odd key"].x', "$.a[*].b"])
def test_keeps_a_path_as_it_was_written(path):
    assert kept(to_path=path, text_path=path, ref_path=path) == IntegrationChanges(
        to_path=path, text_path=path, ref_path=path
    )


@pytest.mark.parametrize("path", ["a[", "$..*", "$.s * $.n", "a[?(@.b =~ '(x+)+y')]", ".".join("a" * 17), "a" * 257])
def test_refuses_a_path_that_can_not_be_used_and_says_which(path):
    issues = issues_of(to_path=path, text_path=path, ref_path=path)

    assert [issue.path for issue in issues] == ["toPath", "textPath", "refPath"]
    assert all(len(issue.message) > 10 for issue in issues)


def test_only_the_reference_may_have_no_path():
    assert kept(ref_path="").ref_path == ""
    assert [issue.path for issue in issues_of(to_path="", text_path=" ")] == ["toPath", "textPath"]


@pytest.mark.parametrize("secret", ["", "x" * 8, "x" * 256, "é" * 8])
def test_keeps_a_signing_secret(secret):
    assert kept(signing_secret=secret).signing_secret == secret


@pytest.mark.parametrize("secret", ["canary7", "canary" * 43])
def test_refuses_a_signing_secret_without_repeating_it(secret):
    (issue,) = issues_of(signing_secret=secret)

    assert issue.path == "signingSecret"
    assert "canary" not in issue.message


@pytest.mark.parametrize("header", ["X-Webhook-Signature", "x-hub-signature-256", "X_Sig", "x.sig", "a" * 64])
def test_keeps_a_signing_header(header):
    assert kept(signing_header=header).signing_header == header


@pytest.mark.parametrize(
    "header",
    [
        "",
        "a" * 65,
        "X Sig",
        "X-Sig:",
        "X-Sig\n",
        "Ünicode",
        *(f"X-Sig{mark}" for mark in "!#$%&'*+^|~`"),
        "Host",
        "content-length",
        "Content-Type",
        "Transfer-Encoding",
        "Connection",
        "AUTHORIZATION",
        "cookie",
        "TE",
        "User-Agent",
        "X-Envoy-Original-Path",
        "X-Textway-Signature",
        "X-Forwarded-Signature",
        "X-Request-Id",
        "grpc-status",
        ":path",
        "X-Signature-Bin",
    ],
)
def test_refuses_a_signing_header(header):
    assert [issue.path for issue in issues_of(signing_header=header)] == ["signingHeader"]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://example.com",
        "https://example.com:8443/a?b=c",
        "https://8.8.8.8/x",
        "https://e.example/" + "x" * 2030,
    ],
)
def test_keeps_an_outbound_url(url):
    assert kept(outbound_url=url).outbound_url == url


@pytest.mark.parametrize(
    "url",
    [
        "example.com",
        "//example.com/x",
        "ftp://example.com",
        "javascript:alert(1)",
        "https://",
        "https:///path",
        "https://:80/",
        "https://user@example.com/",
        "https://user:password@example.com/",
        "https://@example.com/",
        "https://example.com/#here",
        "https://example.com/#",
        "https://example.com:99999/",
        "https://[::1/",
        "https://exa mple.com/",
        "https://example.com/\n",
        "https://example.com\\@evil.example/",
        "https://e.example/" + "x" * 2031,
        "https://e.example/" + "é" * 1020,
    ],
)
def test_refuses_an_outbound_url(url):
    assert [issue.path for issue in issues_of(outbound_url=url)] == ["outboundUrl"]


@pytest.mark.parametrize(("given", "region"), [("", ""), ("SG", "SG"), ("sg", "SG"), ("Gb", "GB")])
def test_keeps_a_region_in_upper_case(given, region):
    assert kept(default_region=given).default_region == region


@pytest.mark.parametrize("region", ["XX", "SGP", "65", " SG", "001", "ß"])
def test_refuses_a_region(region):
    assert [issue.path for issue in issues_of(default_region=region)] == ["defaultRegion"]


@pytest.mark.parametrize("field", ["priority", "on_unknown", "on_overflow"])
@pytest.mark.parametrize("word", ["", "HIGH", "urgent", " hold", "suppress", "truncated"])
def test_an_unknown_word_is_answered_with_the_known_ones(field, word):
    (issue,) = issues_of(**{field: word})

    known = {
        "priority": "high, normal, low",
        "on_unknown": "resend, hold",
        "on_overflow": "reject, truncate, transliterate",
    }
    assert (issue.path, issue.message) == (
        {"priority": "priority", "on_unknown": "onUnknown", "on_overflow": "onOverflow"}[field],
        f"must be one of: {known[field]}",
    )


@pytest.mark.parametrize(
    ("field", "word"),
    [
        ("priority", "high"),
        ("priority", "normal"),
        ("priority", "low"),
        ("on_unknown", "resend"),
        ("on_unknown", "hold"),
        ("on_overflow", "reject"),
        ("on_overflow", "truncate"),
        ("on_overflow", "transliterate"),
    ],
)
def test_keeps_a_known_word(field, word):
    assert getattr(kept(**{field: word}), field) == word


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sender", ""),
        ("sender", "+6598765432"),
        ("sender", "ACME 24"),
        ("tag", ""),
        ("tag", "alerts"),
        ("tag", "ü" * 64),
        ("max_segments", 0),
        ("max_segments", 1),
        ("max_segments", 20),
    ],
)
def test_keeps_who_a_message_is_from_its_tag_and_its_limit(field, value):
    assert getattr(kept(**{field: value}), field) == value


@pytest.mark.parametrize(
    ("field", "value", "path", "sentence"),
    [
        ("sender", "1234567890", "from", "a number such as"),
        ("sender", "ACME Company", "from", "1 to 11"),
        ("sender", "ACMÉ", "from", "a to z"),
        ("sender", " ", "from", "1 to 11"),
        ("tag", "x" * 65, "tag", "at most 64"),
        ("tag", "a\nb", "tag", "printable"),
        ("tag", "a\x00", "tag", "printable"),
        ("max_segments", -1, "maxSegments", "must be 1 to 20, or 0 for no limit, not -1"),
        ("max_segments", 21, "maxSegments", "must be 1 to 20, or 0 for no limit, not 21"),
    ],
)
def test_refuses_a_sender_a_tag_or_a_limit(field, value, path, sentence):
    (issue,) = issues_of(**{field: value})

    assert issue.path == path
    assert sentence in issue.message


@pytest.mark.parametrize(
    ("asked", "rule"),
    [
        (Dedupe(), NO_DEDUPE),
        (Dedupe(key="$.order.id"), Dedupe(key="$.order.id", window_seconds=86_400, mode="suppress")),
        (Dedupe(key="id", window_seconds=1, mode="annotate"), Dedupe(key="id", window_seconds=1, mode="annotate")),
        (Dedupe(key="id", window_seconds=2_592_000), Dedupe(key="id", window_seconds=2_592_000, mode="suppress")),
    ],
)
def test_keeps_a_dedupe_rule_with_its_defaults_filled_in(asked, rule):
    assert kept(dedupe=asked).dedupe == rule


@pytest.mark.parametrize(
    ("asked", "paths"),
    [
        (Dedupe(key="$..id"), ["dedupe.key"]),
        (Dedupe(key="a["), ["dedupe.key"]),
        (Dedupe(key=" ", window_seconds=60), ["dedupe.key"]),
        (Dedupe(window_seconds=60), ["dedupe.key"]),
        (Dedupe(mode="annotate"), ["dedupe.key"]),
        (Dedupe(key="id", window_seconds=-1), ["dedupe.windowSeconds"]),
        (Dedupe(key="id", window_seconds=2_592_001), ["dedupe.windowSeconds"]),
        (Dedupe(key="id", mode="drop"), ["dedupe.mode"]),
        (Dedupe(key="*", window_seconds=-1, mode="x"), ["dedupe.windowSeconds", "dedupe.mode"]),
        (Dedupe(key="$..*", window_seconds=-1, mode="x"), ["dedupe.key", "dedupe.windowSeconds", "dedupe.mode"]),
    ],
)
def test_refuses_a_dedupe_rule_part_by_part(asked, paths):
    issues = issues_of(dedupe=asked)

    assert [issue.path for issue in issues] == paths
    assert all("suppress, annotate" in issue.message for issue in issues if issue.path == "dedupe.mode")


def test_a_whole_integration_without_a_dedupe_rule_loses_the_one_it_had():
    replaced = validation.new_integration(IntegrationChanges(name="shop", priority="low"), presets())

    assert (replaced.priority, replaced.on_unknown, replaced.dedupe) == ("low", "resend", NO_DEDUPE)


def test_a_new_integration_gets_the_presets_defaults():
    made = validation.new_integration(IntegrationChanges(name="shop", text_path="body"), presets())

    assert made == IntegrationChanges(
        name="shop",
        preset="generic",
        to_path="to",
        text_path="body",
        ref_path="ref",
        for_each="",
        signing_header="X-Webhook-Signature",
        outbound_url="",
        default_region="",
        priority="normal",
        on_unknown="resend",
        dedupe=NO_DEDUPE,
        sender="",
        tag="",
        max_segments=0,
        on_overflow="reject",
        outbound_events=("message.received",),
        outbound_enabled=True,
        reply_window_seconds=0,
    )


@pytest.mark.parametrize("preset", ["", "Generic", "../generic", "nope"])
def test_an_unknown_preset_is_answered_with_the_known_ones(preset):
    with pytest.raises(ValidationError) as caught:
        validation.new_integration(IntegrationChanges(name="", preset=preset), presets())

    assert [issue.path for issue in caught.value.issues] == ["preset", "name"]
    assert "generic" in caught.value.issues[0].message


def test_every_preset_can_be_used():
    for preset in presets().values():
        made = validation.new_integration(
            IntegrationChanges(
                name="x",
                to_path=preset.to_path,
                text_path=preset.text_path,
                ref_path=preset.ref_path,
                signing_header=preset.signing_header,
                priority=preset.priority,
                on_unknown=preset.on_unknown,
            ),
            presets(),
        )
        assert compile_path(made.to_path or "").text == preset.to_path


def test_a_preset_file_with_a_field_too_many_is_a_defect(tmp_path):
    (tmp_path / "odd.toml").write_text(
        'toPath="a"\ntextPath="b"\nrefPath=""\nsigningHeader="X"\npriority="low"\nonUnknown="hold"\nextra=1\n'
    )

    with pytest.raises(ValueError, match="extra"):
        presets(tmp_path)


@pytest.mark.parametrize("seconds", [0, 60, 2_592_000])
def test_keeps_a_reply_window(seconds):
    assert kept(reply_window_seconds=seconds).reply_window_seconds == seconds


def test_keeps_outbound_events_once_each_and_in_order():
    asked = ("message.failed", "message.received", "message.failed")

    assert kept(outbound_events=asked).outbound_events == ("message.received", "message.failed")
    assert kept(outbound_events=()).outbound_events is None


@pytest.mark.parametrize(
    ("field", "value", "path", "sentence"),
    [
        ("reply_window_seconds", -1, "replyWindowSeconds", "must be 60 to 2592000, or 0"),
        ("reply_window_seconds", 59, "replyWindowSeconds", "not 59"),
        ("reply_window_seconds", 2_592_001, "replyWindowSeconds", "not 2592001"),
        ("outbound_events", ("message.queued",), "outboundEvents", "message.undelivered"),
        ("signing_secret_overlap_seconds", -1, "signingSecretOverlapSeconds", "must be 0 to 604800, not -1"),
        ("signing_secret_overlap_seconds", 604_801, "signingSecretOverlapSeconds", "not 604801"),
    ],
)
def test_refuses_what_can_not_be_said_of_replies(field, value, path, sentence):
    (issue,) = issues_of(**{field: value})

    assert issue.path == path
    assert sentence in issue.message


@pytest.mark.parametrize(
    ("asked", "switches"),
    [
        ({}, None),
        ({"name": "shop"}, None),
        ({"outbound_enabled": True}, True),
        ({"outbound_enabled": False}, False),
        ({"outbound_url": "https://example.com"}, True),
        ({"outbound_url": ""}, True),
        ({"outbound_url": "https://example.com", "outbound_enabled": False}, False),
    ],
)
def test_to_name_the_outbound_url_is_to_enable_it(asked, switches):
    assert IntegrationChanges(**asked).switches_outbound is switches
