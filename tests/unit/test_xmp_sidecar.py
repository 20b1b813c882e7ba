"""producer.formats.xmp_sidecar

What exiftool reads in them, and that nobody else's words are touched.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import produced
from records import LABELS, MODEL, failed, record

from producer.formats import open_sink, target_of
from producer.formats.xmp_sidecar import PLACES, Notes, Sidecar, SidecarError, sidecar_of
from worker.contract.messages import Record, Stamp, Tag

exiftool = pytest.mark.skipif(
    not shutil.which("exiftool"), reason="exiftool is not here (libimage-exiftool-perl)"
)

# As digiKam writes it, with exiv2: one description, attributes and lists mixed.
DIGIKAM = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:digiKam="http://www.digikam.org/ns/1.0/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:MicrosoftPhoto="http://ns.microsoft.com/photo/1.0/"
    xmlns:lr="http://ns.adobe.com/lightroom/1.0/"
    xmlns:mediapro="http://ns.iview-multimedia.com/mediapro/1.0/"
    xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:acdsee="http://ns.acdsee.com/iptc/1.0/"
   digiKam:PickLabel="2"
   digiKam:ColorLabel="4"
   xmp:Rating="4"
   xmp:Label="Green"
   acdsee:categories="&lt;Category Assigned=&quot;1&quot;&gt;旅行&lt;/Category&gt;">
   <digiKam:TagsList>
    <rdf:Seq>
     <rdf:li>旅行/云南</rdf:li>
     <rdf:li>猫</rdf:li>
    </rdf:Seq>
   </digiKam:TagsList>
   <MicrosoftPhoto:LastKeywordXMP>
    <rdf:Bag>
     <rdf:li>旅行/云南</rdf:li>
    </rdf:Bag>
   </MicrosoftPhoto:LastKeywordXMP>
   <lr:hierarchicalSubject>
    <rdf:Bag>
     <rdf:li>旅行|云南</rdf:li>
     <rdf:li>猫</rdf:li>
    </rdf:Bag>
   </lr:hierarchicalSubject>
   <mediapro:CatalogSets>
    <rdf:Bag>
     <rdf:li>旅行|云南</rdf:li>
    </rdf:Bag>
   </mediapro:CatalogSets>
   <dc:subject>
    <rdf:Bag>
     <rdf:li>云南</rdf:li>
     <rdf:li>猫</rdf:li>
    </rdf:Bag>
   </dc:subject>
   <dc:title>
    <rdf:Alt>
     <rdf:li xml:lang="x-default">洱海 &amp; 苍山</rdf:li>
    </rdf:Alt>
   </dc:title>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""


def seen(file: Path) -> dict[str, Any]:
    """Return all that exiftool finds of XMP in a file, structures and all, but for our notes.

    Nor what it says of the program that wrote last.
    """
    done = subprocess.run(
        ["exiftool", "-j", "-struct", "-G1", "-XMP:all", "-charset", "utf8", str(file)],
        capture_output=True,
        check=True,
    )
    (found,) = json.loads(done.stdout)
    found.pop("XMP-x:XMPToolkit", None)
    return {k: v for k, v in found.items() if k.startswith("XMP") and "wanwu" not in k.lower()}


def tag(image: Path, *records: Record, form: str = "xmp") -> Path:
    with open_sink(target_of(None, form)) as sink:
        for each in records:
            sink.write(each)
    return sidecar_of(str(image), by_stem=form == "xmp-stem")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    file = tmp_path / "照片.jpg"
    file.write_bytes(b"x" * 123)
    return file


def a_record(photo: Path, *tags: Tag) -> Record:
    tags = tags or (Tag("海边", 0.9), Tag("狗", 0.75, "犬科", ("动物",)))
    return record(str(photo), tags=tags, labels=LABELS, file=Stamp(123, 1.5))


@exiftool
def test_exiftool_sees_exactly_the_tags(photo: Path) -> None:
    file = tag(photo, a_record(photo))
    assert file.name == "照片.jpg.xmp"
    assert seen(file) == {
        "XMP-dc:Subject": ["海边", "狗"],
        "XMP-lr:HierarchicalSubject": ["海边", "动物|犬科|狗"],
        "XMP-digiKam:TagsList": ["海边", "动物/犬科/狗"],
    }


@exiftool
def test_a_new_run_replaces_our_keywords_and_only_ours(photo: Path) -> None:
    file = sidecar_of(str(photo))
    argv = ["-Subject=外婆", "-Subject=狗", "-Rating=5", "-Title=生日 <3", "-Creator=李雷"]
    subprocess.run(["exiftool", "-q", *argv, str(file)], check=True)
    before = seen(file)
    tag(photo, a_record(photo))
    merged = seen(file)
    assert merged["XMP-dc:Subject"] == ["外婆", "狗", "海边"]
    assert {k: v for k, v in merged.items() if k in before} == before | {
        "XMP-dc:Subject": ["外婆", "狗", "海边"]
    }
    tag(photo, a_record(photo, Tag("城市", 0.8)))
    assert seen(file)["XMP-dc:Subject"] == ["外婆", "狗", "城市"]
    assert seen(file)["XMP-lr:HierarchicalSubject"] == ["城市"]
    done = produced("untag", photo.parent)
    assert done.returncode == 0, done.stderr
    assert "removed automatic tags from 1 sidecars; 0 held nothing else" in done.stderr
    assert seen(file) == before
    assert b"wanwu" not in file.read_bytes()


@exiftool
def test_what_digikam_wrote_stays_in_meaning_and_comes_back_whole(photo: Path) -> None:
    file = sidecar_of(str(photo))
    file.write_text(DIGIKAM, encoding="utf-8")
    before = seen(file)
    tag(photo, a_record(photo, Tag("猫", 0.9, parent="动物"), Tag("湖", 0.5)))
    merged = seen(file)
    changed = {"XMP-dc:Subject", "XMP-lr:HierarchicalSubject", "XMP-digiKam:TagsList"}
    assert {k: v for k, v in merged.items() if k not in changed} == {
        k: v for k, v in before.items() if k not in changed
    }
    assert merged["XMP-dc:Subject"] == ["云南", "猫", "湖"]
    assert merged["XMP-lr:HierarchicalSubject"] == ["旅行|云南", "猫", "动物|猫", "湖"]
    assert merged["XMP-digiKam:TagsList"] == ["旅行/云南", "猫", "动物/猫", "湖"]
    produced("untag", photo)
    assert seen(file) == before


@exiftool
def test_our_keywords_are_known_after_another_program_has_rewritten_the_file(photo: Path) -> None:
    file = tag(photo, a_record(photo))
    subprocess.run(["exiftool", "-q", "-Rating=3", "-Subject+=奶奶", str(file)], check=True)
    tag(photo, a_record(photo, Tag("城市", 0.8)))
    assert seen(file)["XMP-dc:Subject"] == ["奶奶", "城市"]
    assert produced("untag", photo).returncode == 0
    assert seen(file) == {"XMP-dc:Subject": ["奶奶"], "XMP-xmp:Rating": 3}


def test_a_sidecar_that_held_nothing_else_goes(photo: Path) -> None:
    file = tag(photo, a_record(photo))
    other = photo.with_name("x.xmp")
    other.write_text(DIGIKAM, encoding="utf-8")
    done = produced("untag", photo.parent)
    assert "removed automatic tags from 1 sidecars; 1 held nothing else" in done.stderr
    assert not file.exists()
    assert other.read_text(encoding="utf-8") == DIGIKAM


def test_the_notes_tell_model_labels_and_scores(photo: Path) -> None:
    file = tag(photo, a_record(photo))
    assert Sidecar.read(file).notes == Notes(MODEL, LABELS, Stamp(123, 1.5))
    text = file.read_text(encoding="utf-8")
    assert "<wanwu:Score>0.75</wanwu:Score>" in text


def test_tagging_twice_is_tagging_once(photo: Path) -> None:
    first = tag(photo, a_record(photo)).read_bytes()
    assert tag(photo, a_record(photo)).read_bytes() == first


def test_the_name_may_be_that_of_the_stem(photo: Path) -> None:
    assert tag(photo, a_record(photo), form="xmp-stem").name == "照片.xmp"


def test_signs_that_divide_or_that_xml_cannot_hold_are_replaced(photo: Path) -> None:
    file = tag(photo, a_record(photo, Tag("a/b|c\x00<&", 0.9, parent="x/y")))
    found = {place.name: Sidecar.read(file).keywords(place.name) for place in PLACES}
    assert found == {
        "dc:subject": ["a/b|c\ufffd<&"],
        "lr:hierarchicalSubject": ["x/y|a/b\u00a6c\ufffd<&"],
        "digiKam:TagsList": ["x\u2215y/a\u2215b|c\ufffd<&"],
    }


def test_a_failed_image_keeps_what_it_had(photo: Path) -> None:
    file = tag(photo, a_record(photo))
    before = file.read_bytes()
    tag(photo, failed(str(photo)))
    assert file.read_bytes() == before


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><x>&b;</x>'


@pytest.mark.parametrize("text", ["", "no xml", "<a/>", BOMB])
def test_what_is_no_sidecar_is_left_as_it_is_and_told(photo: Path, text: str) -> None:
    file = sidecar_of(str(photo))
    file.write_text(text)
    with pytest.raises(SidecarError):
        Sidecar.read(file)
    lines = photo.with_name("tags.jsonl")
    with open_sink(target_of(lines, None)) as sink:
        sink.write(a_record(photo))
    done = produced("convert", lines, "--format", "xmp")
    assert done.returncode == 3
    assert "is unchanged" in done.stderr
    assert "Traceback" not in done.stderr
    assert file.read_text() == text
    assert len(list(photo.parent.iterdir())) == 3


def a_device(file: Path) -> None:
    file.symlink_to("/dev/zero")


def an_old_sidecar(file: Path) -> None:
    (file.parent.parent / "theirs.xmp").write_text(DIGIKAM, encoding="utf-8")
    file.symlink_to("../theirs.xmp")


def nothing_yet(file: Path) -> None:
    file.symlink_to("../made.xmp")


def itself(file: Path) -> None:
    file.symlink_to(file.name)


def very_large(file: Path) -> None:
    with file.open("wb") as stream:
        stream.truncate(2 << 30)


UNFIT: tuple[Callable[[Path], object], ...] = (
    *(os.mkfifo, Path.mkdir, a_device, an_old_sidecar),
    *(nothing_yet, itself, very_large),
)


def test_what_lies_where_a_sidecar_would_is_named_and_the_rest_is_done(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    photos = [images / f"{number}.jpg" for number in range(len(UNFIT) + 1)]
    for make, photo in zip(UNFIT, photos[1:], strict=True):
        make(sidecar_of(str(photo)))
    lines = tmp_path / "tags.jsonl"
    with open_sink(target_of(lines, None)) as sink:
        for photo in photos:
            sink.write(a_record(photo))
        # Names of a record that somebody made.
        for path in ("/a\0b.jpg", "/"):
            sink.write(record(path))
    done = produced("convert", lines, "--format", "xmp")
    assert done.returncode == 3, done.stderr
    assert done.stderr.count("is unchanged") == len(UNFIT) + 2
    assert Sidecar.read(sidecar_of(str(photos[0]))).notes.model == MODEL
    gone = produced("untag", images)
    assert gone.returncode == 3
    assert gone.stderr.count("is unchanged") >= len(UNFIT) - 1
    assert not sidecar_of(str(photos[0])).exists()
    assert {one.name for one in tmp_path.iterdir()} == {"images", "tags.jsonl", "theirs.xmp"}
    assert (tmp_path / "theirs.xmp").read_text(encoding="utf-8") == DIGIKAM


def test_a_sidecar_that_is_a_link_to_its_neighbour_stays_one(photo: Path) -> None:
    file, real = sidecar_of(str(photo)), photo.with_name("real.xmp")
    real.write_text(DIGIKAM, encoding="utf-8")
    file.symlink_to(real.name)
    tag(photo, a_record(photo))
    assert file.is_symlink()
    assert Sidecar.read(real).notes.model == MODEL


def test_entities_are_not_read_from_files(photo: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    file = sidecar_of(str(photo))
    entity = f'<!DOCTYPE x [<!ENTITY s SYSTEM "file://{tmp_path}/secret">]>'
    file.write_text(entity + DIGIKAM.partition("?>")[2].replace("洱海", "&s;"), encoding="utf-8")
    tag(photo, a_record(photo))
    assert "secret" not in file.read_text(encoding="utf-8").replace("/secret", "")


def test_a_name_that_is_no_utf_8_has_a_sidecar_too(tmp_path: Path) -> None:
    photo = tmp_path / os.fsdecode(b"\xff\xe9.jpg")
    photo.touch()
    for _ in range(2):
        with open_sink(target_of(None, "xmp")) as sink:
            sink.write(record(str(photo)))
    assert Sidecar.read(sidecar_of(str(photo))).notes.model == MODEL


def test_a_text_where_a_list_belongs_is_nobodys_to_change(photo: Path) -> None:
    file = sidecar_of(str(photo))
    odd = DIGIKAM.replace('xmp:Rating="4"', 'dc:subject="一"')
    odd = odd[: odd.index("   <dc:subject>")] + odd[odd.index("   <dc:title>") :]
    file.write_text(odd, encoding="utf-8")
    with open_sink(target_of(None, "xmp")) as sink:
        sink.write(a_record(photo))
        assert sink.unwritten == 1  # type: ignore[attr-defined]
    assert file.read_text(encoding="utf-8") == odd


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_directory_that_cannot_be_written_is_told(photo: Path) -> None:
    photo.parent.chmod(0o500)
    with open_sink(target_of(None, "xmp")) as sink:
        sink.write(a_record(photo))
        assert sink.unwritten == 1  # type: ignore[attr-defined]
    photo.parent.chmod(0o700)
