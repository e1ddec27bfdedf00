"""Injections as data: where they act, whose rows they need, and how they are told."""

import json

import pytest
import torch

from models import UNet, UNetConfig
from photoswap.injections import COND, Injection, Row, as_json, as_table, rows_needed, timeline
from photoswap.methods import Photoswap, official
from photoswap.pictures import Picture


@pytest.fixture(scope="module")
def sites():
    with torch.device("meta"):
        return UNet(UNetConfig()).sites


def picture(uncond=True):
    zeros = torch.zeros(1, 77, 8)
    return Picture(torch.zeros(1, 4, 8, 8), zeros, zeros if uncond else None)


def test_photoswap_as_a_table(sites):
    assert as_table(timeline(Photoswap().injections, 50, sites, (64, 64))).splitlines() == [
        "steps  what         from    into    halves           sites",
        "0-9    phi          source  target  uncond and cond  16 self sites, down.0.0 to up.3.2",
        "0-19   A by tokens  source  target  cond             16 cross sites, down.0.0 to up.3.2",
        "10-24  M            source  target  cond             16 self sites, down.0.0 to up.3.2",
    ]


def test_a_table_says_from_which_places_and_into_which(sites):
    injections = [Injection("keys and values", within="left", where="~left"), Injection("keys and values", joined=True)]
    lines = as_table(timeline(lambda step: injections, 2, sites, (64, 64))).splitlines()
    assert [line.split("  ")[2].strip() for line in lines[1:]] == [
        "keys and values within left where ~left",
        "keys and values joined",
    ]


def test_the_official_M_leaves_out_the_outermost_sites_at_512_px(sites):
    found = {i.quantity: len(i.addresses) for _, i in timeline(official().injections, 50, sites, (64, 64))}
    assert found == {"phi": 16, "M": 11, "A": 16}


def test_as_json_it_holds_everything_that_is_not_a_default(sites):
    entries = json.loads(json.dumps(as_json(timeline(official().injections, 50, sites, (64, 64)))))
    assert [entry["steps"] for entry in entries] == [[0, 10], [0, 19], [11, 24]]
    phi, a, m = entries
    assert phi["halves"] == ["uncond", "cond"] and phi["sites"][0] == "down.0.0.self" and "alignment" not in phi
    assert a["alignment"] == "tokens" and m["max_queries"] == 1024 and m["origin"] == "source"


def test_an_injection_that_pauses_is_two_lines(sites):
    found = timeline(lambda step: [Injection("M")] if step in (0, 1, 4) else [], 6, sites, (64, 64))
    assert [steps for steps, _ in found] == [(0, 1), (4, 4)]


def test_rows_are_those_asked_for_and_those_they_take_from_through_others():
    pictures = {name: picture() for name in ("source", "target", "reference")}
    sites = UNetSites()
    chain = [Injection("M", sites, COND), Injection("phi", sites, COND, origin="reference", into="source")]
    own = {Row("uncond", "target"), Row("cond", "target")}
    assert rows_needed(own, chain, pictures) == own | {Row("cond", "source"), Row("cond", "reference")}
    assert rows_needed(own, chain[1:], pictures) == own
    assert rows_needed(own, [Injection("M", (), COND)], pictures) == own


def UNetSites():
    with torch.device("meta"):
        return UNet(UNetConfig()).sites[:1]


def test_a_picture_with_one_row_gives_it_to_both_halves_and_takes_in_one():
    pictures = {"source": picture(uncond=False), "target": picture()}
    one = Row("cond", "source")
    assert Injection("M").pairs(pictures) == [(one, Row("uncond", "target")), (one, Row("cond", "target"))]
    assert Injection("M", origin="target", into="source").pairs(pictures) == [(Row("cond", "target"), one)]


def test_sites_are_chosen_by_kind_predicate_and_address(sites):
    assert {site.kind for site in Injection("psi").at(sites, (64, 64)).addresses} == {"cross"}
    late = Injection("keys and values", lambda site: site >= ("up", 2)).at(sites, (64, 64)).addresses
    assert [str(site) for site in late] == [f"up.{block}.{layer}.self" for block in (2, 3) for layer in range(3)]
    assert Injection("M", (sites[0], sites[1])).at(sites, (64, 64)).addresses == (sites[0],)
    with pytest.raises(ValueError, match="not listed yet"):
        _ = Injection("M").addresses
