"""An XMP sidecar: keywords of ours go in and out, what others wrote stays as it is.

Keywords stand in three places that programs read: `dc:subject`, flat; `lr:hierarchicalSubject`,
`animal|dog|poodle`; `digiKam:TagsList`, `animal/dog/poodle`. Our own namespace notes which we
added, by which model and labels, and with which scores. The format: XMP Specification, part 1
(ISO 16684-1:2012), section 7.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from producer.formats.journal import replace
from worker.contract.i18n import gettext as _
from worker.contract.local.neighbours import neighbour, read_neighbour
from worker.contract.messages import Record, Stamp, Tag

if TYPE_CHECKING:
    # lxml tells no types of its own.
    _Element = Any

ENDING: Final = ".xmp"
_OURS: Final = "urn:wanwu-tagger:xmp:1.0:"
_NAMESPACES: Final = {
    "x": "adobe:ns:meta/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
    "digiKam": "http://www.digikam.org/ns/1.0/",
    "wanwu": _OURS,
}
_USED: Final = {key: _NAMESPACES[key] for key in ("dc", "lr", "digiKam", "wanwu")}
_BLANK: Final = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    f'xmlns:rdf="{_NAMESPACES["rdf"]}"/></x:xmpmeta>\n<?xpacket end="w"?>'
).encode()
_MAX_BYTES: Final = 16 * 1024 * 1024
# What divides levels may not stand in one of them: a sign that looks alike does.
_LOOKALIKES: Final = {"/": "\u2215", "|": "\u00a6"}
# What XML cannot hold, in whatever form (XML 1.0, section 2.2).
_NO_XML: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class SidecarError(ValueError):
    """A file is no XMP that can be added to."""


class Place(NamedTuple):
    """Where keywords stand: property, kind of list, what divides levels; our note."""

    name: str
    kind: str
    between: str
    noted: str


PLACES: Final = (
    Place("dc:subject", "rdf:Bag", "", "wanwu:AddedSubject"),
    Place("lr:hierarchicalSubject", "rdf:Bag", "|", "wanwu:AddedHierarchicalSubject"),
    Place("digiKam:TagsList", "rdf:Seq", "/", "wanwu:AddedTagsList"),
)


class Notes(NamedTuple):
    """What we wrote about an image: by which model and labels, and the stamp that it had."""

    model: str
    labels: str
    stamp: Stamp | None


class Sidecar:
    """The XMP of one image, in memory."""

    def __init__(self, root: _Element) -> None:
        found = next(root.iter(_name("rdf:RDF")), None)
        if found is None:
            msg = _("there is no rdf:RDF in it")
            raise SidecarError(msg)
        self._rdf = found
        self._home: _Element | None = None

    @classmethod
    def read(cls, file: Path) -> Self:
        """Return what a sidecar holds, or a blank one if there is none.

        Raises:
            SidecarError: it is no XMP.
            UnfitFileError: it is too large, no regular file, or a link that leads elsewhere.
            OSError: it cannot be read.
        """
        from lxml import etree  # noqa: PLC0415 - only who asks for sidecars waits for it

        try:
            body = read_neighbour(file, _MAX_BYTES)
        except FileNotFoundError:
            body = _BLANK
        parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
        try:
            return cls(etree.fromstring(body, parser))
        except etree.XMLSyntaxError as e:
            msg = _("it is not XML: {reason}").format(reason=e.msg)
            raise SidecarError(msg) from e

    def write(self, file: Path) -> None:
        """Put the sidecar in its place, whole or not at all.

        Raises:
            UnfitFileError: it is a link that leads elsewhere.
            OSError: it cannot be written.
        """
        from lxml import etree  # noqa: PLC0415

        tree = self._rdf.getroottree()
        # Space between elements means nothing in XMP.
        etree.indent(tree, " ")

        def put(new: Path) -> None:
            # Not by its name, which need not be UTF-8.
            with new.open("wb") as stream:
                tree.write(stream, encoding="utf-8")

        replace(neighbour(file), put, follows=False)

    def tag(self, record: Record) -> None:
        """Take our keywords out, and those of `record` in.

        A keyword that somebody else wrote is not doubled, and stays theirs.

        Raises:
            SidecarError: somebody else wrote something that is no list where keywords stand.
        """
        self.untag()
        for place in PLACES:
            theirs = set(self.keywords(place.name))
            wanted = dict.fromkeys(_keyword(tag, place.between) for tag in record.tags)
            if added := [keyword for keyword in wanted if keyword not in theirs]:
                self._add(place.name, place.kind, added)
                self._add(place.noted, "rdf:Bag", added)
        self._note(record)

    def untag(self) -> bool:
        """Take our keywords and notes out; return whether there were any."""
        notes = [each for each in self._properties() if each.tag.startswith(f"{{{_OURS}}}")]
        for place in PLACES:
            self._remove(place.name, set(self.keywords(place.noted)))
        for each in notes:
            _drop(each)
        self._home = None
        return bool(notes)

    @property
    def is_blank(self) -> bool:
        """Whether nothing is said in it."""
        return not len(self._rdf)

    @property
    def notes(self) -> Notes:
        """What we wrote in it; blank if we did not."""
        size, changed = self._text("wanwu:SizeBytes"), self._text("wanwu:ModifiedSeconds")
        try:
            stamp = Stamp(int(size), float(changed))
        except ValueError:
            stamp = None
        return Notes(self._text("wanwu:Model"), self._text("wanwu:Labels"), stamp)

    def keywords(self, name: str) -> list[str]:
        """Return what stands in a list."""
        items = (each.iterchildren(_name("rdf:li")) for each in self._lists(name))
        return [item.text or "" for item in chain.from_iterable(items)]

    def _note(self, record: Record) -> None:
        """Write down what made the tags, with their scores."""
        notes = {"Model": record.model, "Labels": record.labels or ""}
        if record.file:
            notes["SizeBytes"] = str(record.file.size_bytes)
            notes["ModifiedSeconds"] = repr(record.file.modified_s)
        for name, text in notes.items():
            _child(self._own(), f"wanwu:{name}").text = _writable(text)
        if not record.tags:
            return
        bag = _child(_child(self._own(), "wanwu:Tags"), "rdf:Bag")
        for tag in record.tags:
            entry = _child(bag, "rdf:li")
            entry.set(_name("rdf:parseType"), "Resource")
            _child(entry, "wanwu:Label").text = _writable(tag.label)
            _child(entry, "wanwu:Score").text = f"{tag.score:.6g}"

    def _properties(self, name: str | None = None) -> Iterator[_Element]:
        """Yield the properties, or those of a name; they may stand in several descriptions."""
        for description in self._rdf.iterchildren(_name("rdf:Description")):
            yield from description.iterchildren(_name(name) if name else "{*}*")

    def _lists(self, name: str) -> Iterator[_Element]:
        for element in self._properties(name):
            yield from element.iterchildren(*map(_name, ("rdf:Bag", "rdf:Seq", "rdf:Alt")))

    def _text(self, name: str) -> str:
        return next((each.text or "" for each in self._properties(name)), "")

    def _add(self, name: str, kind: str, keywords: Sequence[str]) -> None:
        found = next(self._lists(name), None)
        if found is None:
            if self._stands(name):
                msg = _("{name} in it is not a list").format(name=name)
                raise SidecarError(msg)
            found = _child(_child(self._own(), name), kind)
        for keyword in keywords:
            _child(found, "rdf:li").text = keyword

    def _stands(self, name: str) -> bool:
        """Whether a property is there, in one of its two forms."""
        as_attribute = any(each.get(_name(name)) is not None for each in self._rdf)
        return as_attribute or next(self._properties(name), None) is not None

    def _remove(self, name: str, keywords: set[str]) -> None:
        for each in list(self._lists(name)):
            ours = [item for item in each if (item.text or "") in keywords]
            for item in ours:
                each.remove(item)
            if ours and not len(each):
                _drop(each.getparent())

    def _own(self) -> _Element:
        """Return a description of our own, about what the others are about."""
        from lxml import etree  # noqa: PLC0415

        if self._home is None:
            first = next(self._rdf.iterchildren(_name("rdf:Description")), None)
            about = first.get(_name("rdf:about"), "") if first is not None else ""
            self._home = etree.SubElement(self._rdf, _name("rdf:Description"), nsmap=_USED)
            self._home.set(_name("rdf:about"), about)
        return self._home


def sidecar_of(image: str, *, by_stem: bool = False) -> Path:
    """Return where the sidecar of an image lies: `photo.jpg.xmp`, or `photo.xmp`."""
    path = Path(image)
    return path.with_suffix(ENDING) if by_stem else path.with_name(f"{path.name}{ENDING}")


def _drop(element: _Element) -> None:
    """Take a property out, and its description if that says nothing else."""
    home = element.getparent()
    home.remove(element)
    if not len(home) and set(home.attrib) <= {_name("rdf:about")}:
        home.getparent().remove(home)


def _keyword(tag: Tag, between: str) -> str:
    """Return a tag as a keyword: flat, or below all that lies above it."""
    names = [*reversed(tag.above), tag.label] if between else [tag.label]
    if between:
        names = [name.replace(between, _LOOKALIKES[between]) for name in names]
    return _writable(between.join(names))


def _writable(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)


def _name(short: str) -> str:
    prefix, _, name = short.partition(":")
    return f"{{{_NAMESPACES[prefix]}}}{name}"


def _child(parent: _Element, name: str) -> _Element:
    from lxml import etree  # noqa: PLC0415

    return etree.SubElement(parent, _name(name))
