"""The report: complete, self-contained, safe against hostile names, and readable in a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, sync_playwright

from foreshock.core.verdicts import Contribution
from foreshock.diagnosis.report import ReportAlert, ReportDetector, ReportMetric, render

DAY_S = 1_763_856_000.0  # 2025-11-23T00:00:00Z
TIMES_S = DAY_S + 60.0 * np.arange(1441)
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


def metric(name: str, level: float = 40.0) -> ReportMetric:
    values = level + 2 * np.random.default_rng(5).standard_normal(TIMES_S.size)
    flat = np.full(TIMES_S.size, level)
    return ReportMetric(name, values, flat, flat - 8, flat + 8)


def alert(start_h: float = 15.5, end_h: float | None = 18.75) -> ReportAlert:
    shares = (Contribution("pool_wait_ms", 0.745), Contribution("error_ratio", 0.25), Contribution("requests", 0.005))
    end_s = None if end_h is None else DAY_S + 3600 * end_h
    return ReportAlert(DAY_S + 3600 * start_h, end_s, 12.34, "critical", shares, "pool_wait_ms is 112 ms.")


def detector(**changes: object) -> ReportDetector:
    scores = np.full(TIMES_S.size, 0.3)
    scores[15 * 60 + 30 : 18 * 60] = 12.34
    scores[20 * 60 : 20 * 60 + 14] = np.nan
    plain = ReportDetector(
        "shop/checkout",
        "checkout",
        "critical",
        TIMES_S,
        scores,
        (metric("pool_wait_ms"), metric("error_ratio", 0.002), metric("requests", 600.0)),
        (alert(),),
        {"version": "v1", "revision": "r1"},
        {"pool_wait_ms": 'avg(pool_wait_ms{job="checkout"})'},
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def page(*detectors: ReportDetector, title: str = "Yesterday") -> str:
    return render(title, DAY_S, DAY_S + 86_400, detectors or (detector(),), DAY_S + 90_000)


class Elements(HTMLParser):
    """All start tags with their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def with_class(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for _, attrs in self.tags if name in (attrs.get("class") or "").split()]


def words(text: str) -> str:
    return " ".join("".join(Elements(text).texts).split())


def test_the_page_says_what_happened() -> None:
    """Summary, alert with its times, sentence, score and contributions, model and query stand in the text."""
    text = words(page())
    assert "1 alert on 1 detector in 24 hours." in text
    assert "It fired on shop/checkout at 23 Nov, 15:30 UTC, led by pool_wait_ms." in text
    assert "23 Nov, 15:30 to 18:45" in text
    assert "3 h 15 min, peak score 12.3" in text
    assert "pool_wait_ms is 112 ms." in text
    assert "74 %" in text
    assert "< 1 %" in text
    assert 'avg(pool_wait_ms{job="checkout"})' in text
    assert "0.972 % inconclusive" in text
    assert "23 Nov 2025, 00:00 to 24 Nov 2025, 00:00 UTC (24 hours)" in text


def test_each_metric_has_a_band_and_the_score_has_the_threshold() -> None:
    """Three metrics with line, expected value and band; one score with its line and the limit at 1.0."""
    elements = Elements(page())
    assert len(elements.with_class("band")) == 3
    assert len([one for one in elements.with_class("expected") if "d" in one]) == 3
    assert len([one for one in elements.with_class("line") if "d" in one]) == 4
    assert len([one for one in elements.with_class("limit") if "x1" in one]) == 1
    labels = [attrs["aria-label"] for tag, attrs in elements.tags if tag == "svg"]
    assert len(labels) == 4
    assert all(labels)


def test_alerts_and_ignorance_are_marked_where_they_were() -> None:
    """The alert covers 15:30 to 18:45 and the hatching 20:00 to 20:13 in every plot and in the timeline."""
    elements = Elements(page())
    alerts = elements.with_class("alert")
    assert len(alerts) == 5
    assert {one["style"] for one in alerts} == {"left:64.583%;width:13.542%"}
    assert {one["style"] for one in elements.with_class("unknown")} == {"left:83.264%;width:0.972%"}
    link = next(attrs for tag, attrs in elements.tags if tag == "a" and "alert" in (attrs.get("class") or ""))
    assert link["href"] == "#alert-1-1"
    assert "alert-1-1" in [attrs.get("id") for _, attrs in elements.tags]


def test_silence_is_said() -> None:
    """A detector without alerts says so with its highest score; one without verdicts says that it knows nothing."""
    quiet = detector(alerts=(), scores=np.full(TIMES_S.size, 0.42))
    blind = detector(alerts=(), scores=np.full(TIMES_S.size, np.nan))
    text = words(page(quiet, blind))
    assert "No alert on 2 detectors in 24 hours." in text
    assert "No alert in this period. The highest score was 0.42." in text
    assert "Nothing could be said in this period: no window was conclusive." in text


def test_an_alert_that_goes_on_is_drawn_to_the_end() -> None:
    """`ended_at_s=None` reaches the right edge and reads "still firing"."""
    text = page(detector(alerts=(alert(18.0, None),)))
    assert "left:75.0%;width:25.0%" in text
    assert "23 Nov, 18:00, still firing" in words(text)


def test_many_metrics_are_folded_and_many_alerts_are_counted() -> None:
    """The thirteenth metric is behind a fold, and the 101st alert is counted."""
    many = detector(
        metrics=tuple(metric(f"metric_{count}") for count in range(14)),
        alerts=tuple(alert(0.1 * count, 0.1 * count + 0.05) for count in range(103)),
    )
    text = words(page(many))
    assert "2 more metrics" in text
    assert "3 more alerts are not listed." in text
    assert "103 alerts on 1 detector" in text


def test_hostile_names_stay_text() -> None:
    """Markup in any string that comes from outside is shown, and never becomes an element or an attribute."""
    shares = (Contribution(HOSTILE, 1.0),)
    hostile = detector(
        subject=HOSTILE,
        service=HOSTILE,
        severity=HOSTILE,
        metrics=(replace(metric("x"), name=HOSTILE, unit_hint=HOSTILE),),
        alerts=(replace(alert(), contributions=shares, sentence=HOSTILE, severity=HOSTILE),),
        model={HOSTILE: HOSTILE},
        queries={HOSTILE: HOSTILE},
    )
    text = page(hostile, title=HOSTILE)
    elements = Elements(text)
    assert not {"script", "img"} & {tag for tag, _ in elements.tags}
    assert not [attrs for _, attrs in elements.tags if any(name.startswith("on") for name in attrs)]
    assert words(text).count("<script>alert(1)</script>") >= 10


def test_the_page_refers_to_nothing_outside() -> None:
    """No address, no script, no import; its own policy forbids all of them."""
    text = page()
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text
    assert not [attrs for _, attrs in Elements(text).tags if "src" in attrs]


def test_equal_input_gives_an_equal_page() -> None:
    """Nothing in the page depends on when or where it is made."""
    assert page() == page()


@pytest.mark.parametrize("changed", [{"scores": np.zeros(3)}, {"metrics": (replace(metric("x"), upper=np.zeros(3)),)}])
def test_arrays_of_another_length_are_refused(changed: dict[str, object]) -> None:
    """An array that does not fit the times is an error, not a picture."""
    with pytest.raises(ValueError, match="as long as the times"):
        page(detector(**changed))


def test_an_empty_period_is_refused() -> None:
    """There is no page about no time."""
    with pytest.raises(ValueError, match="is empty"):
        render("Never", DAY_S, DAY_S, (detector(),), DAY_S)


def test_no_metric_has_to_be_measured() -> None:
    """A metric without any sample, a constant one and a single instant are drawn without a warning."""
    nothing = np.full(TIMES_S.size, np.nan)
    constant = np.full(TIMES_S.size, 3.0)
    metrics = (
        ReportMetric("gone", nothing, nothing, nothing, nothing),
        ReportMetric("replicas", constant, constant, constant, constant),
    )
    assert "no samples" in words(page(detector(metrics=metrics)))
    one = {"times_s": TIMES_S[:1], "scores": np.array([0.1]), "alerts": ()}
    assert "h.01" in page(detector(metrics=(ReportMetric("x", *[constant[:1]] * 4),), **one))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("chromium is not installed (Debian's package chromium)")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=executable, args=flags)
        yield running
        running.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_a_browser_shows_it_without_scrolling_sideways(
    browser: Browser, tmp_path: Path, width: int, scheme: str
) -> None:
    """At 400 and at 1280 px nothing is wider than the window, and neither an error nor a request shows up."""
    path = tmp_path / "report.html"
    path.write_text(page(detector(), detector(subject="default/" + "a_very_long_name_" * 8)), encoding="utf-8")
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    try:
        tab, complaints, requests = context.new_page(), [], []
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(path.as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert complaints == []
        assert requests == [path.as_uri()]
        background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(245, 246, 248)" if scheme == "light" else "rgb(14, 18, 23)")
        plots = tab.locator(".plot").evaluate_all("all => all.map(one => one.getBoundingClientRect().width)")
        assert min(plots) > 250
    finally:
        context.close()


def test_the_keyboard_reaches_and_opens_everything(browser: Browser, tmp_path: Path) -> None:
    """Tab leads to the skip link, the detector, the alert and the folds; Enter follows and opens them."""
    path = tmp_path / "report.html"
    path.write_text(page(), encoding="utf-8")
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    try:
        tab = context.new_page()
        tab.goto(path.as_uri())
        seen = []
        for _ in range(5):
            tab.keyboard.press("Tab")
            seen.append(tab.evaluate("document.activeElement.className || document.activeElement.textContent"))
            if seen[-1].startswith("alert"):
                tab.keyboard.press("Enter")
                assert tab.evaluate("location.hash") == "#alert-1-1"
        assert seen == ["skip", "who", "alert critical", "Model", "Queries"]
        tab.keyboard.press("Enter")
        assert tab.locator("code").first.is_visible()
    finally:
        context.close()
