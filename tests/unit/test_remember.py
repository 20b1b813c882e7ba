"""An answer is asked for again when it is stale, or about another name."""

from __future__ import annotations

from worker.service.remember import Remembered


def test_an_answer_holds_for_its_name_and_its_time() -> None:
    asked, now_s = list[str](), [100.0]

    def question(name: str) -> bool:
        asked.append(name)
        return name == "a"

    remembered = Remembered(question, 0.5, clock=lambda: now_s[0])
    assert remembered("a")
    assert remembered("a")
    now_s[0] += 0.4
    assert remembered("a")
    assert asked == ["a"]
    now_s[0] += 0.2
    assert remembered("a")
    assert not remembered("b")
    assert asked == ["a", "a", "b"]
