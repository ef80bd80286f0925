"""carriers.yaml as a whole: what a correct file becomes, and every kind of wrong one with the line that tells it."""

from __future__ import annotations

from pathlib import Path

import pytest

from servicekit.clock import SystemClock
from services.delivery.carriers.base import Capability
from services.delivery.carriers.yaml_document import read_yaml
from services.delivery.installation.carrier_settings import Surroundings
from services.delivery.installation.carriers_file import CarriersFileError, ConfiguredCarriers, configured, load
from services.delivery.routing import CarrierRules

SECRET = "s3cret-that-nobody-may-see"
ENVIRONMENT = {"TOKEN": SECRET, "EMPTY": "", "PORT": "2775", "TRICKY": "${TOKEN}"}

TWILIO = "definition: twilio, settings: {account_sid: AC1, auth_token: '${TOKEN}'}"
SMSC = "host: smsc.example, system_id: textway, password: '${TOKEN}'"


def read(text: str, public_url: str = "https://sms.example") -> ConfiguredCarriers:
    surroundings = Surroundings(
        folder=Path("/nowhere"),
        environment=ENVIRONMENT,
        public_url=public_url,
        simulator_number="+6598765432",
        clock=SystemClock(),
    )
    return configured(read_yaml(text, "carriers.yaml"), surroundings)


def problems(text: str) -> list[str]:
    with pytest.raises(CarriersFileError) as caught:
        read(text)
    return str(caught.value).splitlines()


def test_carriers_keep_the_order_and_the_names_of_the_file():
    found = read(f"carriers:\n  z: {{simulator: {{}}}}\n  main: {{{TWILIO}}}\n  smsc: {{smpp: {{{SMSC}}}}}\n")

    assert [(carrier.name, carrier.kind) for carrier in found.carriers] == [
        ("z", "simulator"),
        ("main", "http"),
        ("smsc", "smpp"),
    ]
    assert {name: each.name for name, each in found.definitions.items()} == {"main": "twilio"}
    assert found.routes[-1].members == ("z", "main", "smsc")


def test_without_a_file_there_is_one_simulator():
    found = load(None, simulator_number="+6598765432", public_url="", environment={}, clock=SystemClock())

    assert [(carrier.name, carrier.sender) for carrier in found.carriers] == [("simulator", "+6598765432")]
    assert found.routes[-1].members == ("simulator",)


def test_a_carrier_has_its_sender_its_limits_and_its_senders_by_country():
    found = read(
        """\
carriers:
  play:
    simulator: {}
    from: ACME
    from_by_country: {NO: "+4790000000", SG: "+6598765432"}
    limits: {segments_per_second: 2.5, burst: 5, sender_segments_per_second: 1, in_flight: 8}
"""
    )

    assert found.carriers[0].sender == "ACME"
    assert found.rules["play"] == CarrierRules(
        segments_per_second=2.5,
        burst=5,
        sender_segments_per_second=1.0,
        in_flight=8,
        senders={"NO": "+4790000000", "SG": "+6598765432"},
    )


def test_an_installation_may_say_another_capability_than_the_definition():
    found = read(f"carriers:\n  main: {{{TWILIO}, capability: blind}}\n")

    assert found.carriers[0].capability is Capability.BLIND


def test_calls_to_an_smsc_are_no_more_than_its_window():
    found = read(f"carriers:\n  smsc: {{smpp: {{{SMSC}, window: 7, port: '${{PORT}}'}}}}\n")

    assert found.rules["smsc"].in_flight == 7


@pytest.mark.parametrize(
    ("carrier", "problem"),
    [
        ("{}", "carriers.main: has no kind: write one of definition, smpp, simulator"),
        ("twilio", "carriers.main: must be a mapping"),
        (f"{{{TWILIO}, simulator: {{}}}}", "carriers.main: has definition and simulator: write one of"),
        ("{simulator: {number: 1}}", "carriers.main.simulator.number: is not known here: leave it out"),
        ("{simulator: }", "carriers.main.simulator: must be a mapping"),
        ("{simulator: {}, limit: {}}", "carriers.main.limit: is not known here: did you mean `limits`?"),
        ("{simulator: {}, settings: {a: b}}", "carriers.main.settings: belongs to a carrier with a `definition`"),
        ("{simulator: {}, capability: blind}", "carriers.main.capability: belongs to a carrier with a `definition`"),
        ("{simulator: {}, from: ACME-SHOP}", "carriers.main.from: must be a number such as"),
        ("{simulator: {}, from: ''}", "carriers.main.from: is empty"),
        ("{simulator: {}, from: +12}", "carriers.main.from: must be a number such as"),
        ("{simulator: {}, from_by_country: {}}", "carriers.main.from_by_country: is empty"),
        ("{simulator: {}, from_by_country: {us: ACME}}", "carriers.main.from_by_country.us: `us` must be in capitals"),
        ("{simulator: {}, from_by_country: {UK: ACME}}", "carriers.main.from_by_country.UK: `UK` is no country"),
        ("{simulator: {}, from_by_country: {US: a_b}}", "carriers.main.from_by_country.US: must be a number such as"),
        (
            "{simulator: {}, limits: {segments_per_second: 0}}",
            "carriers.main.limits.segments_per_second: must be a number",
        ),
        ("{simulator: {}, limits: {segments_per_second: -1}}", "carriers.main.limits.segments_per_second: must be a"),
        ("{simulator: {}, limits: {segments_per_second: fast}}", "carriers.main.limits.segments_per_second: must be a"),
        ("{simulator: {}, limits: {segments_per_second: }}", "carriers.main.limits.segments_per_second: is empty"),
        ("{simulator: {}, limits: {in_flight: 0}}", "carriers.main.limits.in_flight: must be a whole number from 1"),
        ("{simulator: {}, limits: {in_flight: 1.5}}", "carriers.main.limits.in_flight: must be a whole number from 1"),
        ("{simulator: {}, limits: {burst: 5}}", "carriers.main.limits.burst: means nothing without"),
        ("{simulator: {}, limits: {per_second: 5}}", "carriers.main.limits.per_second: is not known here"),
        ("{definition: twillio}", "carriers.main.definition: there is no definition `twillio`: did you mean `twilio`?"),
        ("{definition: }", "carriers.main.definition: is empty"),
        ("{definition: twilio, settings: {account_sid: AC1}}", "carriers.main.settings.auth_token: is required"),
        (f"{{{TWILIO.replace('AC1', 'AC1, auth_tokn: x')}}}", "carriers.main.settings.auth_tokn: is not known here"),
        (
            f"{{{TWILIO.replace('TOKEN', 'NOWHERE')}}}",
            "carriers.main.settings.auth_token: ${NOWHERE} is not set in the",
        ),
        (f"{{{TWILIO.replace('TOKEN', 'EMPTY')}}}", "carriers.main.settings.auth_token: ${EMPTY} is empty in the"),
        (f"{{{TWILIO.replace('{TOKEN}', '{TOK-EN}')}}}", "carriers.main.settings.auth_token: has a `${` without"),
        (f"{{{TWILIO.replace('{TOKEN}', '{TOKEN')}}}", "carriers.main.settings.auth_token: has a `${` without"),
        (f"{{{TWILIO}, capability: idempotnt}}", "carriers.main.capability: did you mean `idempotent`?"),
        (f"{{smpp: {{{SMSC}, port: many}}}}", "carriers.main.smpp.port: must be a whole number"),
        (f"{{smpp: {{{SMSC}, port: 70000}}}}", "carriers.main.smpp.port: must be from 1 to 65535"),
        (f"{{smpp: {{{SMSC}, tls: perhaps}}}}", "carriers.main.smpp.tls: must be true or false"),
        (f"{{smpp: {{{SMSC}, bind: receiver}}}}", "carriers.main.smpp.bind: must be one of transceiver"),
        (
            f"{{smpp: {{{SMSC}, message_id_format: {{submit: octal}}}}}}",
            "carriers.main.smpp.message_id_format.submit: must",
        ),
        (f"{{smpp: {{{SMSC}, windw: 1}}}}", "carriers.main.smpp.windw: is not known here: did you mean `window`?"),
        (f"{{smpp: {{{SMSC}, sender: x}}}}", "carriers.main.smpp.sender: is not known here"),
        (f"{{smpp: {{{SMSC}, tls: true, ca_file: ca.pem}}}}", "carriers.main.smpp.ca_file: can not be read as PEM"),
        ("{smpp: {system_id: textway}}", "carriers.main.smpp.host: is missing"),
    ],
)
def test_a_wrong_carrier_is_refused_with_its_line_and_key(carrier, problem):
    found = problems(f"# one line before\ncarriers:\n  main: {carrier}\n")

    assert len(found) == 1, found
    assert found[0].startswith(f"carriers.yaml:3: {problem}")


@pytest.mark.parametrize("name", ["Main", "a_b", "-a", "a.b", "x" * 33, "ü", "''"])
def test_a_name_that_can_not_stand_in_an_address_is_refused(name):
    found = problems(f"carriers:\n  {name}: {{simulator: {{}}}}\n")

    assert len(found) == 1, found
    assert "a carrier's name is 1 to 32 lower-case letters" in found[0]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("routes: []", "carriers.yaml:1: carriers: is missing: name at least one carrier"),
        ("carriers: {}", "carriers.yaml:1: carriers: has 0 carriers"),
        ("carriers:", "carriers.yaml:1: carriers: must be a mapping"),
        ("- main", "carriers.yaml:1: must be a mapping"),
        (
            "carriers: {a: {simulator: {}}}\nroute: []",
            "carriers.yaml:2: route: is not known here: did you mean `routes`?",
        ),
        ("carriers: {a: {simulator: {}}}\nroutes: {}", "carriers.yaml:2: routes: must be a list"),
    ],
)
def test_a_file_of_another_shape_is_refused(text, problem):
    found = problems(text)

    assert any(line.startswith(problem) for line in found), found


def test_everything_that_is_wrong_is_told_in_one_go():
    found = problems(
        """\
carriers:
  main:
    definition: twilio
    settings: {account_sid: "${NOWHERE}", auth_token: "${TOKEN}"}
    limits: {in_flight: 0}
  smsc:
    smpp: {host: smsc.example, system_id: textway, port: 0}
routes:
  - name: one
    carriers: [main, smcs]
"""
    )

    assert [line.split(": ")[0:2] for line in found] == [
        ["carriers.yaml:4", "carriers.main.settings.account_sid"],
        ["carriers.yaml:5", "carriers.main.limits.in_flight"],
        ["carriers.yaml:7", "carriers.smsc.smpp.port"],
        ["carriers.yaml:10", "routes[0].carriers[1]"],
    ]


def test_a_secret_is_taken_as_it_is():
    found = read(f"carriers:\n  smsc: {{smpp: {{{SMSC.replace('TOKEN', 'TRICKY')}}}}}\n")

    assert found.warnings == ()


def test_a_secret_in_the_file_itself_is_taken_and_doubted_without_being_told():
    found = read(f"carriers:\n  main: {{{TWILIO.replace('${TOKEN}', SECRET)}}}\n")

    assert len(found.warnings) == 1
    assert found.warnings[0].startswith("carriers.yaml:2: carriers.main.settings.auth_token: is a secret and stands in")
    assert SECRET not in found.warnings[0]


def test_a_carrier_without_a_route_is_doubted():
    found = read("carriers:\n  a: {simulator: {}}\n  b: {simulator: {}}\nroutes:\n  - {name: all, carriers: [a]}\n")

    assert found.warnings == ("carriers.yaml:3: carriers.b: is in no route: it gets no message",)


@pytest.mark.parametrize("address", ["http://127.0.0.1:8080", "http://localhost:8080", "http://[::1]:8080"])
def test_callbacks_to_this_machine_alone_are_doubted(address):
    found = read(f"carriers:\n  main: {{{TWILIO}}}\n  play: {{simulator: {{}}}}\n", public_url=address)

    (warning,) = found.warnings
    assert warning.startswith(f"carriers.yaml:2: carriers.main: calls back to {address}, which only this machine")


@pytest.mark.parametrize(
    "carrier",
    [
        f"{{{TWILIO.replace('${TOKEN}', SECRET)}, capability: none}}",
        f"{{definition: twilio, settings: {{account_sid: AC1, auth_token: [{SECRET}, {{a: {SECRET}}}]}}}}",
        f"{{definition: twilio, settings: {{account_sid: AC1, auth_token: '${{TOKEN}}', base_url: '{SECRET}'}}}}",
        f"{{definition: twilio, settings: {{account_sid: AC1, auth_token: '{SECRET}${{'}}}}",
        f"{{smpp: {{{SMSC}, port: '${{TOKEN}}', bind: {SECRET}, tls: {SECRET}}}}}",
        f"{{smpp: {{host: h, system_id: '{SECRET}', password: {SECRET * 5}}}}}",
        f"{{simulator: {{}}, from: {SECRET}, limits: {{in_flight: {SECRET}}}}}",
    ],
)
def test_no_error_tells_a_value(carrier):
    found = problems(f"carriers:\n  main: {carrier}\n")

    assert found
    assert SECRET not in "\n".join(found)


def test_nothing_that_was_read_shows_its_secrets():
    found = read(f"carriers:\n  main: {{{TWILIO}}}\n  smsc: {{smpp: {{{SMSC}}}}}\n")

    assert SECRET not in repr(found)
