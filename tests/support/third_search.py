"""A search beside ours that draws what it finds, for what must work with any; faults spoil it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from sedona_nni.data.batches import evaluation_batches
from sedona_nni.decouplings.outcome import SearchOutcome
from sedona_nni.searches import Findings, SearchKind, SearchSetup

__all__ = ["Drawing", "DrawingSettings", "Drawn"]


class DrawingSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0


class Drawn(SearchOutcome):
    """Evidence that was drawn."""

    tells_num_blocks: ClassVar[bool] = False

    format: Literal["tests/drawn/1"] = "tests/drawn/1"
    drawn: list[list[float]]

    @property
    def num_layers(self) -> int:
        return len(self.drawn) + 1

    def evidence(self) -> np.ndarray:
        return np.tile(np.array(self.drawn), (len(self.drawn), 1, 1))

    def ranked_aux(self, boundary: int) -> list[str]:
        order = np.argsort(-np.array(self.drawn[boundary]), kind="stable")
        return [self.aux_choices[c] for c in order]


class Drawing(SearchKind[DrawingSettings]):
    """Draws its evidence by the seed and the images that train; a fault spoils one thing."""

    name, field, settings, outcome = "drawing", "drawing", DrawingSettings, Drawn
    uses_training = True

    def __init__(self, fault: str = "") -> None:
        self.fault = fault

    def run(self, setup: SearchSetup, settings: DrawingSettings) -> Findings:
        seed = 0 if self.fault == "knows no seed" else settings.seed
        looked_at = [setup.splits.train, setup.splits.validation][: 1 + (self.fault == "peeps")]
        if self.fault == "cheats":
            looked_at.append(setup.splits.test)
        ground = [seed] + [self.brightness(images) for images in looked_at]
        if self.fault == "is moody":
            ground.append(int(torch.randint(1000, ())))
        if self.fault == "stirs":
            torch.rand(1)
        rng = np.random.default_rng(ground)
        rows = setup.progress.kept(lambda content: content["rows"], [])
        if self.fault == "forgets":
            rows, skipped = [], len(rows)
            rng.random((skipped, 2))
        else:
            rng.random((len(rows), 2))
        while len(rows) < 3:
            rows.append(rng.random(2).tolist())
            setup.progress.keep(rows=rows)
            setup.report({"step": len(rows), "steps": 3, "default": float(rows[-1][0])})
        if self.fault == "is unfit for JSON":
            return Findings(self.result(setup, rows), 0.0, 0, {"x": np.float32(1)})
        if self.fault == "counts in halves":
            return Findings(self.result(setup, rows), 0.0, 0.5)  # type: ignore[arg-type]
        return Findings(self.result(setup, rows), 0.0, 0)

    def brightness(self, images: Any) -> int:
        batch, _ = next(evaluation_batches(images, 16, "cpu"))
        return int(batch.abs().sum() * 1000)

    def result(self, setup: SearchSetup, rows: list[list[float]]) -> Drawn:
        return Drawn(
            backbone="another" if self.fault == "mistakes" else setup.task.backbone,
            dataset=setup.task.dataset,
            aux_choices=list(setup.aux),
            drawn=rows[:2] if self.fault == "is short" else rows,
        )
