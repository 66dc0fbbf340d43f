"""Narrations for tests, by hand and by Hypothesis."""

from hypothesis import strategies as st

from contracts.narration import (
    Evidence,
    NamedFeature,
    Narration,
    Provenance,
    Stamps,
    Status,
    Utterance,
)

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_FLOAT = st.floats(-1e9, 1e9)
_COUNT = st.integers(0, 2**40)


def narration(
    *,
    seq: int = 0,
    population: str = "all",
    text: str = "A car drives away.",
    status: Status = Status.OK,
    total_ms: int = 60,
    n_gap_bins: int = 0,
    blind_streams: tuple[str, ...] = (),
    confidence: float | None = None,
) -> Narration:
    """Return a narration whose six stages take equal time."""
    stamps = Stamps(*(stage * total_ms * 1_000_000 // 6 for stage in range(7)))
    return Narration(
        id=f"run-{population}-{seq}",
        seq=seq,
        population=population,
        n_units=40,
        window_seq=seq,
        window_start_s=seq * 0.5,
        window_stop_s=seq * 0.5 + 0.25,
        frame_s=seq * 0.5 + 0.2,
        n_gap_bins=n_gap_bins,
        blind_streams=blind_streams,
        utterance=Utterance(text, status, reason="" if status is Status.OK else "because"),
        stamps=stamps,
        provenance=Provenance("0" * 64, "retrieval", "", ""),
        confidence=confidence,
    )


@st.composite
def narrations(draw: st.DrawFn) -> Narration:
    """Draw a legal narration."""
    times = sorted(draw(st.lists(st.integers(0, 2**62), min_size=7, max_size=7)))
    stamps = Stamps(*times)
    return Narration(
        id=draw(st.text(min_size=1, max_size=20)),
        seq=draw(_COUNT),
        population=draw(st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)),
        n_units=draw(_COUNT),
        window_seq=draw(st.integers(-(2**40), 2**40)),
        window_start_s=draw(_FLOAT),
        window_stop_s=draw(_FLOAT),
        frame_s=draw(_FLOAT),
        n_gap_bins=draw(_COUNT),
        blind_streams=tuple(draw(st.lists(_TEXT, max_size=3))),
        utterance=Utterance(
            text=draw(_TEXT),
            status=draw(st.sampled_from(Status)),
            reason=draw(_TEXT),
            mean_logprob=draw(st.none() | _FLOAT),
            n_tokens=draw(_COUNT),
            evidence=draw(
                st.none() | st.builds(Evidence, frame=_TEXT, caption=_TEXT, cosine=st.floats(-1, 1))
            ),
            features=draw(
                st.none()
                | st.lists(
                    st.builds(
                        NamedFeature,
                        feature=_COUNT,
                        name=_TEXT,
                        z=st.integers(-900, 900).map(lambda n: n / 100),
                    ),
                    max_size=3,
                ).map(tuple)
            ),
            start_host_ns=stamps.worker_start,
            first_token_host_ns=stamps.first_token,
            last_token_host_ns=stamps.last_token,
        ),
        stamps=stamps,
        confidence=draw(st.none() | st.integers(0, 1000).map(lambda n: n / 1000)),
        provenance=draw(
            st.builds(Provenance, bundle=_TEXT, backend=_TEXT, model=_TEXT, prompt=_TEXT)
        ),
    )
