"""Tables -> the concepts of the model, and the words by which each is known.

An object of the drawings shares the concept of the class or category that has its name, or has it
for an alias; EXCEPT lists those whose alias is only a cousin.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Final, NamedTuple

import class_tables
import drawings

# Kept apart from the class or category that knows the word: what is drawn is not the same thing.
EXCEPT: Final = frozenset(
    ("刺猬", "甲虫", "闹钟", "台球", "蟹", "虾", "蜥蜴类", "雪山", "青苹果", "棒棒糖", "狼")
)
# What else a photograph of a class shows: a general word that only drawings have, or another kind.
ALSO: Final = {
    "食物": ("玉米", "玉米穗", "蘑菇"),
    "蟹": ("珍宝蟹", "岩蟹", "招潮蟹", "帝王蟹", "寄居蟹"),
    "虾": ("波士顿龙虾", "龙虾", "小龙虾"),
}
# General words that neither the classes nor the drawings have, with other words for them.
GENERAL: Final = {"树": ("树木", "大树", "tree", "trees")}
# What else a drawing of an object shows.
ALSO_DRAWN: Final = {
    "苹果": ("红苹果", "青苹果"),
    "猫": ("猫脸",),
    "狗": ("狗脸", "导盲犬"),
    "马": ("马头",),
    "猪": ("猪头",),
    "老虎": ("老虎头",),
    "兔子": ("兔子头",),
    "树": ("松树", "落叶树", "棕榈树"),
    "花卉": ("花束", "樱花", "莲花", "玫瑰", "芙蓉", "向日葵", "开花", "郁金香", "风信子"),
    "飞行器": ("直升机", "小型飞机", "航班起飞", "航班降落"),
    "水果": ("葡萄", "甜瓜", "西瓜", "橘子", "芒果", "红苹果", "青苹果", "梨", "桃", "樱桃"),
    "蔬菜": ("茄子", "土豆", "胡萝卜", "红辣椒", "绿叶蔬菜", "蒜", "洋葱"),
}
# So much of the object's likelihood: the object's own word is to stay the likelier. A kind gets
# more, for it is no word for one thing.
_COUSIN: Final = 0.5
_KIND: Final = 0.8


# A class or an object, a concept of it, and by what share.
Part = tuple[int, int, float]


class Concepts(NamedTuple):
    """C names; the concept of each word; class or object, concept, and by what share.

    `labels` are what images are tagged with by default, with their parents.
    """

    names: list[str]
    entries: dict[str, int]
    shown: list[Part]
    drawn: list[Part]
    labels: list[str]
    parents: dict[str, str]


def normal(word: str) -> str:
    """Return a word as the tokenizer does: small letters, no blanks, no punctuation."""
    folded = unicodedata.normalize("NFKC", word).lower()
    return "".join(c for c in folded if not (c.isspace() or unicodedata.category(c)[0] == "P"))


def build() -> Concepts:
    """Return the concepts: classes, top categories, other categories, objects of their own."""
    objects = drawings.read_objects()
    categories = sorted(class_tables.categories(), key=lambda one: bool(one.parent))
    names, entries, owners = _named(class_tables.classes(), categories, objects)
    places = {name: number for number, name in enumerate(names)}
    parents = {one.name: one.parent for one in categories}
    kinds = {one.name: one.parent for one in class_tables.classes()}
    labels = list(kinds)
    for thing, owner in zip(objects, owners, strict=True):
        if names[owner] not in kinds and thing.name not in labels:
            labels.append(thing.name)
            kind = parents.get(names[owner]) or thing.category
            kinds |= {thing.name: kind} if kind else {}
    return Concepts(
        names,
        entries,
        _shown(places, parents),
        _drawn(objects, owners, names, places),
        labels,
        {name: kind for name, kind in kinds.items() if name != kind},
    )


def _named(
    classes: list[class_tables.Class],
    categories: list[class_tables.Category],
    objects: list[drawings.Object],
) -> tuple[list[str], dict[str, int], list[int]]:
    """Return the concepts' names, the concept of each word, and the concept of each object."""
    names = [*(one.name for one in classes), *(one.name for one in categories)]
    places = {name: number for number, name in enumerate(names)}
    entries: dict[str, int] = {}
    _learn(entries, places, ((one.name, one.name, *one.aliases) for one in classes))
    _learn(entries, places, ((one.name, one.name, *one.aliases) for one in categories))
    owners = _owners(objects, entries, names)
    names += GENERAL
    places |= {name: number for number, name in enumerate(names)}
    _learn(entries, places, ((name, name, *others) for name, others in GENERAL.items()))
    _learn(entries, places, ((one.name, *one.english) for one in categories))
    _learn(entries, places, ((one.name, *one.english) for one in classes))
    english = class_tables.english_objects()
    _learn(
        entries, places, ((names[owners[n]], *english[one.code]) for n, one in enumerate(objects))
    )
    return names, entries, owners


def _shown(places: dict[str, int], parents: dict[str, str]) -> list[Part]:
    """Return which classes are photographs of which concepts."""
    pairs: list[Part] = []
    for number, one in enumerate(class_tables.classes()):
        pairs += [(number, places[name], 1.0) for name in (one.name, one.parent)]
        pairs.append((number, places[parents[one.parent]], 1.0))
    for word, members in ALSO.items():
        pairs += [(places[member], places[word], 1.0) for member in members]
    return pairs


def _drawn(
    objects: list[drawings.Object], owners: list[int], names: list[str], places: dict[str, int]
) -> list[Part]:
    """Return which objects are drawings of which concepts."""
    kinds = {one.name: one.parent for one in class_tables.classes()}
    numbers = {one.name: n for n, one in enumerate(objects)}
    pairs: list[Part] = [(n, owner, 1.0) for n, owner in enumerate(owners)]
    pairs += [(n, places[one.category], 1.0) for n, one in enumerate(objects) if one.category]
    of_classes = [(n, names[owner]) for n, owner in enumerate(owners) if names[owner] in kinds]
    pairs += [(n, places[kinds[name]], _KIND) for n, name in of_classes]
    for word, members in ALSO_DRAWN.items():
        pairs += [(numbers[member], places[word], _COUSIN) for member in members]
    return pairs


def _learn(
    entries: dict[str, int], places: dict[str, int], rows: Iterable[tuple[str, ...]]
) -> None:
    """Let each row's words mean its first; who comes first keeps a word."""
    for name, *others in rows:
        for word in others:
            entries.setdefault(normal(word), places[name])


def _owners(objects: list[drawings.Object], entries: dict[str, int], names: list[str]) -> list[int]:
    """Return the concept of each object; new ones are added to the names and words."""
    owners = []
    for one in objects:
        word = normal(one.name)
        if word not in entries or one.name in EXCEPT:
            entries[word] = len(names)
            names.append(one.name)
        owners.append(entries[word])
    return owners
