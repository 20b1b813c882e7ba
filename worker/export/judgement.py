"""Rows of a precision and rows of the model itself -> whether a user would notice the difference.

Shapes: N pictures, D embedding dimensions, K labels.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.contract.i18n import gettext as _
from worker.contract.messages import CERTAIN
from worker.contract.scoring import Scale, score
from worker.export.recipe import Recipe
from worker.export.reference import text_rows, tokens_of
from worker.model.hub import Loaded
from worker.model.precision import ACCEPTED

# Of pictures whose first label is ahead by so much, nearly all must keep it: one in fifty may not.
_AHEAD: Final = 0.1
_LEAST_SAME: Final = 0.98
_CHINESE: Final = ("chinese_clip", "altclip", "metaclip_2")
# English and Chinese, of what the pictures that ship show, and of much else.
_LABELS: Final = (
    ("cat", "猫"),
    ("dog", "狗"),
    ("bird", "鸟"),
    ("fish", "鱼"),
    ("lizard", "蜥蜴"),
    ("frog", "青蛙"),
    ("butterfly", "蝴蝶"),
    ("panda", "熊猫"),
    ("elephant", "大象"),
    ("horse", "马"),
    ("car", "汽车"),
    ("ambulance", "救护车"),
    ("bicycle", "自行车"),
    ("train", "火车"),
    ("ship", "轮船"),
    ("space shuttle", "航天飞机"),
    ("balloons", "气球"),
    ("brushes", "画笔"),
    ("camera", "相机"),
    ("football", "足球"),
    ("hamburger", "汉堡"),
    ("banana", "香蕉"),
    ("watermelon", "西瓜"),
    ("cake", "蛋糕"),
    ("sunflower", "向日葵"),
    ("tree", "树"),
    ("rainbow", "彩虹"),
    ("volcano", "火山"),
    ("snowman", "雪人"),
    ("beach", "海滩"),
    ("city at night", "城市夜景"),
    ("people", "人物"),
    ("document", "文件"),
    ("furniture", "家具"),
)


class Judgement(NamedTuple):
    """How a precision did on views of pictures: the least cosine, and what became of first labels.

    Of `decided` views one label is clearly ahead in the model's own scores; `same` says how many
    of them keep it. `moved` is the most by which a first label's score changed; `crossed` how many
    pictures have a certain tag in one of both alone. All are 0 where there are no labels.
    """

    views: int
    cosine: float
    decided: int = 0
    same: int = 0
    moved: float = 0.0
    crossed: int = 0

    def agrees(self, accepted: float = ACCEPTED) -> bool:
        """Whether it may replace the model: the cosine to it has to be `accepted` or more."""
        return self.cosine >= accepted and self.same >= _LEAST_SAME * self.decided

    def parity(self) -> dict[str, Any]:
        """Return the manifest's entries about it."""
        found: dict[str, Any] = {"judged_views": self.views, "judged_min_cosine": self.cosine}
        if self.decided:
            found["judged_decided"] = self.decided
            found["judged_same_first_label"] = self.same
            found["judged_score_moved"] = self.moved
            found["judged_crossed_certain"] = self.crossed
        return found

    def __str__(self) -> str:
        """Return words for a person."""
        line = _("cosine {cosine:.6f} at worst on {views} views of pictures").format(
            cosine=self.cosine, views=self.views
        )
        if not self.decided:
            return line
        first = _("{share:.1%} same first label").format(share=self.same / self.decided)
        return f"{line}, {first}"


class Judge(NamedTuple):
    """The model's own rows ND for pictures, its scale, and texts KD: none for a classifier."""

    wanted_ND: Tensor
    scale: Scale
    texts_KD: Tensor | None
    is_classifier: bool

    def judge(self, found_ND: Tensor) -> Judgement:
        """Compare rows of the same pictures."""
        cosines = F.cosine_similarity(found_ND.double(), self.wanted_ND.double(), dim=-1)
        views, cosine = len(found_ND), float(cosines.min().nan_to_num(-1.0))
        if self.texts_KD is None and not self.is_classifier:
            return Judgement(views, cosine)
        wanted_NK, scores_NK = self._scores(self.wanted_ND), self._scores(found_ND)
        best_N2, order_N2 = wanted_NK.topk(min(2, wanted_NK.shape[1]), dim=1)
        first_N1 = order_N2[:, :1]
        decided_N = best_N2[:, 0] - best_N2[:, -1] >= _AHEAD
        same_N = scores_NK.argmax(dim=1) == first_N1[:, 0]
        moved_N1 = (scores_NK.gather(1, first_N1) - best_N2[:, :1]).abs()
        crossed_N = (scores_NK.amax(dim=1) >= CERTAIN) != (best_N2[:, 0] >= CERTAIN)
        return Judgement(
            views,
            cosine,
            int(decided_N.sum()),
            int((decided_N & same_N).sum()),
            float(moved_N1.max()),
            int(crossed_N.sum()),
        )

    def _scores(self, rows_ND: Tensor) -> Tensor:
        texts_KD = torch.eye(rows_ND.shape[1]) if self.texts_KD is None else self.texts_KD
        return torch.from_numpy(score(rows_ND.numpy(), texts_KD.numpy(), self.scale, None))


def judge_of(loaded: Loaded, recipe: Recipe, wanted_ND: Tensor) -> Judge:
    """Return a judge by the model's own rows ND of the pictures, and its rows of some labels."""
    model = loaded.model
    logit_scale = getattr(model, "logit_scale", None)
    factor = 1.0 if logit_scale is None else float(logit_scale.detach().exp())
    scale = Scale(factor, recipe.logit_bias)
    if recipe.kind == "classifier" or loaded.tokenizer is None:
        return Judge(wanted_ND, scale, None, is_classifier=recipe.kind == "classifier")
    language = int(model.config.model_type in _CHINESE)
    prompts = [recipe.template.format(label[language]) for label in _LABELS]
    tokens = tokens_of(model, loaded.tokenizer, prompts, recipe.max_text_tokens)
    return Judge(wanted_ND, scale, text_rows(model, tokens), is_classifier=False)
