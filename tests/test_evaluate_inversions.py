"""The table of inversions on a tiny random model: what it compares, and that it says what was measured."""

from tiny_model import tiny_model

from photoswap.demo import make_task
from photoswap.evaluate_inversions import inversions, report_inversions


def silent(items, desc):
    return items


def test_direct_inversion_loses_what_the_autoencoder_loses(capsys, monkeypatch):
    monkeypatch.setattr("photoswap.evaluate_inversions.INVERSIONS", ("ddim", "direct", "negative-prompt"))
    found = inversions(tiny_model(), [make_task(0)], 7.5, silent)
    assert found["direct"].returned == found["autoencoder"].returned
    assert found["direct"].alone == found["ddim"].alone == found["ddim"].returned != found["direct"].returned
    assert found["negative-prompt"].alone == found["negative-prompt"].returned != found["ddim"].returned
    report_inversions(found, 7.5)
    assert f"{found['direct'].returned:.1f} dB" in capsys.readouterr().out
