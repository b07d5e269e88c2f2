"""How often is meddling healed and told, when somebody does it again and again?"""

from __future__ import annotations

from garden_plugin.cell.drifts import AT_ONCE, MINUTE_SECONDS, Drifts, Report
from garden_plugin.dataplane.linux.pace import FREE, LONGEST_SECONDS, WHILE_SECONDS, Pace


def test_a_drift_now_and_then_is_said_at_once() -> None:
    drifts = Drifts()
    for hour in range(20):
        assert drifts.heard("a", hour * 3600.0) == Report("a", 1)
        assert drifts.due(hour * 3600.0 + 60) is None


def test_what_comes_again_and_again_is_said_together_once_a_minute() -> None:
    drifts = Drifts()
    said = []
    for second in range(600):
        said += [drifts.heard(f"touch {second}", float(second)), drifts.due(float(second))]
    reports = [each for each in said if each is not None]
    assert [each.times for each in reports[:AT_ONCE]] == [1] * AT_ONCE
    assert len(reports) <= AT_ONCE + 10
    assert sum(each.times for each in reports) >= 600 - MINUTE_SECONDS
    assert all(each.times > 1 for each in reports[AT_ONCE:])


def test_nothing_that_was_kept_is_forgotten() -> None:
    drifts = Drifts()
    for number in range(AT_ONCE + 3):
        drifts.heard(f"touch {number}", 1.0)
    assert drifts.due(2.0) is None
    assert drifts.due(1.0 + MINUTE_SECONDS) == Report("touch 5; touch 6; touch 7", 3)
    assert drifts.due(1.0 + 2 * MINUTE_SECONDS) is None


def test_the_first_heals_have_no_pause_and_a_fight_has_a_bounded_rate() -> None:
    pace = Pace()
    now, heals = 0.0, 0
    pauses = []
    while now < WHILE_SECONDS:
        pauses.append(pace.healed(now))
        now += max(pauses[-1], 0.05)
        heals += 1
    assert pauses[:FREE] == [0.0] * FREE
    assert max(pauses) == LONGEST_SECONDS
    assert heals < 30
    assert pace.healed(now + WHILE_SECONDS) == 0.0
