"""Searches: the pictures that each kind has, and what there is to choose from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sedona_nni.decouplings.decoupling import Decoupling
from sedona_nni.reporting.data import SearchView
from sedona_nni.reporting.drawing import DASHES, Drawing, Picture, Style, in_our_style
from sedona_nni.reporting.evidence_pictures import evidence_map, local_loss_map
from sedona_nni.reporting.relaxation_pictures import (
    end_of_search,
    preferred_auxiliary,
    relaxation_map,
    search_progress,
)
from sedona_nni.searches.probing.result import ProbeResult

__all__ = ["compromises", "pictures_of"]

_Pictures = Callable[[SearchView, Sequence[Decoupling], Style, str], Sequence[Picture | None]]


def pictures_of(
    search: SearchView, trained: Sequence[Decoupling], look: Style, name: str
) -> Sequence[Picture | None]:
    """Draw how a search went and ended: what its kind has, or else what speaks for each block.

    Args:
        search: The search; it has a result.
        trained: What was trained of it.
        look: How its strategy looks.
        name: What the names of the pictures begin with, unique in the page.
    """
    return _OF_KIND.get(search.search, _of_any)(search, trained, look, name)


def _of_any(
    search: SearchView, trained: Sequence[Decoupling], look: Style, name: str
) -> Sequence[Picture | None]:
    assert search.result is not None
    return [evidence_map(search.result, trained, f"{name}-evidence")]


def _of_sedona(
    search: SearchView, trained: Sequence[Decoupling], look: Style, name: str
) -> Sequence[Picture | None]:
    cuts = sorted({cut for each in trained for cut in each.cuts})
    return [
        relaxation_map(search, cuts, f"{name}-a"),
        end_of_search(search, cuts, look, f"{name}-end"),
        preferred_auxiliary(search, f"{name}-aux"),
        search_progress(search, look, f"{name}-progress"),
    ]


def _of_probing(
    search: SearchView, trained: Sequence[Decoupling], look: Style, name: str
) -> Sequence[Picture | None]:
    assert isinstance(search.result, ProbeResult)
    return [
        local_loss_map(search.result, trained, f"{name}-loss"),
        evidence_map(search.result, trained, f"{name}-evidence"),
    ]


_OF_KIND: dict[str, _Pictures] = {"sedona": _of_sedona, "probe": _of_probing}


@in_our_style
def compromises(search: SearchView, looks: Mapping[int, Style], name: str) -> Picture | None:
    """Draw the Pareto front of evidence against ideal speed-up for every K that was trained.

    Args:
        search: The search.
        looks: How each K looks.
        name: Of the picture, unique in the page.
    """
    if not search.compromises:
        return None
    drawing = Drawing(name, height=3.0)
    said = []
    counts = sorted({each.decoupling.num_blocks for each in search.compromises})
    for number, num_blocks in enumerate(counts):
        look = looks[num_blocks]
        own = [each for each in search.compromises if each.decoupling.num_blocks == num_blocks]
        front = [each for each in own if each.is_best]
        drawing.axes.plot(
            [each.ideal_speedup for each in front],
            [each.evidence for each in front],
            color=look.colour,
            linestyle=DASHES[number % len(DASHES)],
            linewidth=1.2,
            marker=look.marker,
            markersize=0,
            label=f"K = {num_blocks}",
        )
        for each in own:
            numbers = f"{each.ideal_speedup:.2f}, {each.evidence:.3g} nats"
            text = f"{each.decoupling.in_words()}: {numbers}"
            text += ", trained" if each.is_trained else ""
            drawing.point(each.ideal_speedup, each.evidence, look, text, faint=not each.is_trained)
        ends = (f"{each.evidence:.3g} at {each.ideal_speedup:.2f}" for each in (own[0], own[-1]))
        said.append(f"K = {num_blocks} from {' to '.join(ends)}")
    drawing.axes.set_xlabel("ideal speed-up, times back-propagation")
    drawing.axes.set_ylabel("evidence, nats")
    drawing.axes.margins(0.08)
    drawing.legend()
    return drawing.finish(
        "Evidence against ideal speed-up", f"{', '.join(said)}. Filled: what was trained"
    )
