"""The simulation of a pipeline against closed forms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.rivals.simulation import Pipeline, simulate
from sedona_nni.errors import InputError


class TestPipeline:
    def test_the_busiest_block_sets_the_pace(self) -> None:
        assert Pipeline([0.2, 0.5, 0.3], [0.0, 0.0]).batch_s() == pytest.approx(0.5)

    def test_the_slowest_link_sets_the_pace(self) -> None:
        assert Pipeline([0.2, 0.5, 0.3], [0.1, 0.7]).batch_s() == pytest.approx(0.7)

    def test_transfers_hide_behind_blocks(self) -> None:
        """Links that take as long as blocks cost nothing: two buffers suffice."""
        assert Pipeline([0.5, 0.5, 0.5], [0.5, 0.5]).batch_s() == pytest.approx(0.5)

    def test_a_delay_longer_than_the_buffers_hide(self) -> None:
        """Two batches per round: 0.1 s on the link, 1 s of delay, 0.3 s for a free buffer."""
        pipeline = Pipeline([0.2, 0.3], [0.1], delay_s=1.0)
        assert pipeline.batch_s() == pytest.approx((0.1 + 1.0 + 0.3) / 2)
        assert Pipeline([0.2, 0.3], [0.1], delay_s=0.1).batch_s() == pytest.approx(0.3)

    def test_one_block(self) -> None:
        assert Pipeline([0.4], []).batch_s() == pytest.approx(0.4)

    def test_few_batches_by_hand(self) -> None:
        """Three batches through blocks of 1 s and 3 s, half a second between them.

        Block 0 ends at 1, 2 and 3; features leave at 1.5, 2.5 and, when batch 0 has left its
        buffer at 4.5, at 5. Block 1 ends at 4.5, 7.5 and 10.5.
        """
        assert Pipeline([1.0, 3.0], [0.5]).batch_s(batches=3) == pytest.approx(10.5 - 7.5)


class TestSimulate:
    def test_from_a_measurement(self, tmp_path: Path) -> None:
        path = _measured(tmp_path)
        found = simulate(path, None, 0).results
        assert found["images_per_s"] == pytest.approx(32 / 0.4)
        assert found["speedup"] == pytest.approx(32 / 0.4 / 50)
        assert found["measured_images_per_s"] == 76.0
        assert found["simulated_over_measured"] == pytest.approx(80 / 76)
        view = simulate(path, "100mbit", 0)
        assert view.results["images_per_s"] == pytest.approx(32 / 0.8)  # 10 MB at 12.5 MB/s
        assert view.results["measured_images_per_s"] is None  # of another link
        assert view.tables[0].title.startswith("simulated, not measured: vgg19")

    def test_more_blocks_than_cores_are_not_compared(self, tmp_path: Path) -> None:
        path = _measured(tmp_path, cores=1)
        assert simulate(path, None, 0).results["measured_images_per_s"] is None

    def test_what_is_no_measurement(self, tmp_path: Path) -> None:
        path = tmp_path / "other.json"
        for content in ({}, [], {"greedy": {"failure": "out of memory"}}):
            path.write_text(json.dumps(content))
            with pytest.raises(InputError, match="must be of `parallel --json` with blocks in"):
                simulate(path, None, 0)


def _measured(folder: Path, cores: int = 2) -> Path:
    path = folder / "measured.json"
    document = {
        "header": {"machine": {"cores": cores}},
        "setting": {"batch_size": 32, "backbone": "vgg19", "width_multiplier": 4.0},
        "cut_bytes": [10_000_000],
        "link": None,
        "greedy": {"block_s": [0.4, 0.3]},
        "backprop": {"images_per_s": 50.0},
        "blocks": {"images_per_s": 76.0},
    }
    path.write_text(json.dumps(document))
    return path
