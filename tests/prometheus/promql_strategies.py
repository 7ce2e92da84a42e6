"""PromQL as hypothesis writes it: honest queries, and queries of someone who wants to read what is not theirs."""

from __future__ import annotations

from hypothesis import strategies as st

LABELS = ("namespace", "job", "instance", "le")
GREEDY = (
    "b",
    "a|b",
    ".*",
    ".+",
    "",
    'b"} or {namespace="b',
    "b'} or {namespace='b",
    "b`} or {namespace=`b",
    "\\",
    '\\"',
    "a\n} or {",
    "} # ",
    "é",
)


def _double(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _single(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"


def _raw(text: str) -> str:
    return _double(text) if "`" in text else f"`{text}`"


strings = st.one_of(st.sampled_from(GREEDY), st.text(max_size=6)).flatmap(
    lambda text: st.sampled_from((_double, _single, _raw)).map(lambda quote: quote(text))
)
durations = st.sampled_from(("1m", "5m", "90s", "1h", "1m30s"))
numbers = st.sampled_from(("0", "1", "0.5", "2", "1e3", "0x1F", "Inf"))
matchers = st.builds(
    lambda label, sign, value: f"{label}{sign}{value}",
    st.sampled_from(LABELS),
    st.sampled_from(("=", "!=", "=~", "!~")),
    st.one_of(strings, st.sampled_from(('"a"', '"b"', '"api"', '".*"', '"a|b"'))),
)
names = st.sampled_from(("requests_total", "pool_wait", "latency_bucket", "secret", '{__name__=~".+"}'))
moved = st.sampled_from(("", "", "", " offset 5m", " offset -1m", " @ end()", " @ start() offset 1m"))
comments = st.sampled_from(("", "", "", ' # "}', " # or secret\n"))


def _selector(name: str, found: list[str]) -> str:
    written = ", ".join(found)
    if name.startswith("{"):
        return "{" + ", ".join(filter(None, [name[1:-1], written])) + "}"
    return f"{name}{{{written}}}" if written else name


selectors = st.builds(_selector, names, st.lists(matchers, max_size=2))
vectors = st.deferred(
    lambda: st.one_of(
        st.builds("{}{}{}".format, selectors, moved, comments),
        st.builds("{}({}[{}])".format, st.sampled_from(("rate", "avg_over_time", "changes")), selectors, durations),
        st.builds("max_over_time(({})[{}:1m])".format, vectors, durations),
        st.builds(
            "{} {} ({}) ({})".format,
            st.sampled_from(("sum", "avg", "count", "max")),
            st.sampled_from(("by", "without")),
            st.lists(st.sampled_from(LABELS), max_size=2, unique=True).map(", ".join),
            vectors,
        ),
        st.builds("topk(2, {})".format, vectors),
        st.builds("count_values({}, {})".format, st.just('"namespace"'), vectors),
        st.builds("quantile(scalar({}), {})".format, vectors, vectors),
        st.builds('label_replace({}, "namespace", "b", "job", {})'.format, vectors, st.just('".*"')),
        st.builds("clamp_min({}, {})".format, vectors, numbers),
        st.builds("-({})".format, vectors),
        st.builds("({}) {} {}".format, vectors, st.sampled_from("+-*/%^"), numbers),
        st.builds(
            "({}) {} ({})".format,
            vectors,
            st.sampled_from(
                (
                    *("and", "or", "unless", "+", "> bool"),
                    *("or on (job)", "and ignoring (namespace)", "* on (job, instance) group_left (namespace)"),
                )
            ),
            vectors,
        ),
        st.builds("({}) or vector({})".format, vectors, numbers),
    )
)
