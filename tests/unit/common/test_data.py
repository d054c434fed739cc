"""Datasets: decoded rightly, decoded once, and every damage named."""

import logging
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from common.data import shapes10
from common.data.array_cache import find_arrays, keep_arrays
from common.data.datasets import adopt_data, data_key, load_data
from common.data.draws import balanced_subset
from common.data.image_folders import decode_images
from common.errors import FedShieldError
from common.paths import ROOT
from tests.helpers.images import make_folder

REAL_CIFAR10 = ROOT / "data" / "cifar10-jpeg"


def test_shapes10_is_balanced_and_the_same_at_every_call() -> None:
    images, labels = shapes10.generate(train=True, count=50)
    again, _ = shapes10.generate(train=True, count=50)
    assert images.shape == (50, 3, 32, 32)
    assert images.dtype == np.uint8
    assert np.array_equal(images, again)
    assert np.bincount(labels).tolist() == [5] * 10
    assert not np.array_equal(images[:10], shapes10.generate(train=False, count=50)[0][:10])


def test_folder_is_decoded_pixel_by_pixel_and_labeled_by_class(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pets")
    (root / "train" / "cat" / "notes.txt").write_text("not an image")
    splits = load_data("folder", str(root), 16)
    assert splits.train.classes == ("cat", "dog")
    assert splits.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert splits.test.labels.tolist() == [0, 0, 1, 1]
    expected = np.asarray(Image.open(root / "train" / "dog" / "1.png")).transpose(2, 0, 1)
    assert np.array_equal(splits.train.images[4], expected)


def test_images_of_another_size_or_without_color_are_converted(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pets")
    Image.new("L", (40, 30), 77).save(root / "test" / "cat" / "0.png")
    image = load_data("folder", str(root), 16).test.images[0]
    assert image.shape == (3, 16, 16)
    assert np.unique(image).tolist() == [77]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_images_are_turned_as_cameras_note(tmp_path: Path, suffix: str) -> None:
    wide = Image.new("RGB", (32, 16))
    wide.paste((255, 255, 255), (0, 0, 32, 8))  # the upper half; upright it is the right one
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    wide.save(tmp_path / f"photo.{suffix}", exif=exif)
    (image,) = decode_images([str(tmp_path / f"photo.{suffix}")], 16)
    assert image[:, :, :6].max() < 64
    assert image[:, :, 10:].min() > 192


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage!", b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\x63\0\0\0\0\0\0\0"]
)
def test_exif_data_that_say_nothing_change_no_pixel(tmp_path: Path, exif: bytes) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    for suffix in ("jpg", "png"):
        plain, noted = tmp_path / f"plain.{suffix}", tmp_path / f"noted.{suffix}"
        Image.fromarray(pixels).save(plain)
        Image.fromarray(pixels).save(noted, exif=exif)
        expected = np.asarray(Image.open(plain).convert("RGB")).transpose(2, 0, 1)
        for image in decode_images([str(plain), str(noted)], 16):
            assert np.array_equal(image, expected)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_images_of_16_bits_keep_their_upper_ones(tmp_path: Path, suffix: str) -> None:
    gray = np.arange(256, dtype=np.uint16).reshape(16, 16)
    path = tmp_path / f"x-ray.{suffix}"
    if suffix == "pgm":
        path.write_bytes(b"P5 16 16 65535\n" + (257 * gray).astype(">u2").tobytes())
    else:
        Image.fromarray(257 * gray).save(path)
    (image,) = decode_images([str(path)], 16)
    assert np.array_equal(image, np.stack([gray] * 3))


def test_gray_images_of_32_bits_are_taken_by_a_stated_rule_or_refused(tmp_path: Path) -> None:
    gray = np.arange(256).reshape(16, 16)

    def decoded(values: np.ndarray) -> np.ndarray:
        Image.fromarray(values).save(tmp_path / "x-ray.tif")
        return decode_images([str(tmp_path / "x-ray.tif")], 16)[0, 0]

    assert np.array_equal(decoded(gray.astype(np.int32)), gray)
    assert np.array_equal(decoded((gray / 255).astype(np.float32)), gray)
    assert np.array_equal(decoded(np.full((16, 16), 0.5, np.float32)), np.full((16, 16), 128))
    for values, told in (
        (257 * gray, "integers of 32 bits from 0 to 65535, expected 0 to 255"),
        (gray - 1, "integers of 32 bits from -1 to 254"),
        (gray.astype(np.float32), "floats from 0 to 255, expected 0 to 1"),
        (np.full((16, 16), np.nan, np.float32), "floats from nan to nan"),
    ):
        with pytest.raises(FedShieldError, match=rf"x-ray\.tif: not a readable image \(gray {told}"):
            decoded(values if values.dtype == np.float32 else values.astype(np.int32))


def test_folders_within_a_class_count_and_what_is_no_image_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, speaking: None
) -> None:
    logging.getLogger("fedshield").propagate = True
    caplog.set_level(logging.INFO, "fedshield")
    root = make_folder(tmp_path / "pets")
    deeper = root / "train" / "cat" / "2024" / "spring"
    deeper.mkdir(parents=True)
    (root / "train" / "cat" / "0.png").rename(deeper / "0.png")
    (root / "train" / "cat" / "loop").symlink_to(root / "train" / "cat")
    (root / "train" / "dog" / "0.png").rename(tmp_path / "far.png")
    (root / "train" / "dog" / "0.png").symlink_to(tmp_path / "far.png")
    for junk in ("train/__MACOSX/._0.png", "train/cat/._000.png", "train/cat/.DS_Store", "test/dog/__MACOSX/1.png"):
        (root / junk).parent.mkdir(exist_ok=True)
        (root / junk).write_bytes(b"junk")
    for note in ("train/cat/notes.txt", "test/dog/labels.csv", "train/readme"):
        (root / note).write_text("x")
    splits = load_data("folder", str(root), 16)
    assert splits.train.classes == ("cat", "dog")
    assert splits.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert "2 other files are ignored: not named as images" in caplog.text
    assert "notes.txt)" in caplog.text


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pets")
    pipe = root / "train" / "cat" / "x.png"
    os.mkfifo(pipe)
    for read in (lambda: load_data("folder", str(root), 16), lambda: decode_images([str(pipe)], 16)):
        with pytest.raises(FedShieldError, match=r"cat/x\.png: not a file but a pipe, a socket or a device; remove it"):
            read()
    pipe.unlink()
    pipe.symlink_to(tmp_path / "gone.png")
    with pytest.raises(
        FedShieldError, match=r"cat/x\.png: a link to .*/gone\.png, which does not exist; repair or remove"
    ):
        load_data("folder", str(root), 16)


@pytest.mark.parametrize("place", ["train", "train/dog", "train/dog/2024"])
def test_a_link_that_leads_nowhere_is_named_wherever_it_is(tmp_path: Path, place: str) -> None:
    root = make_folder(tmp_path / "pets")
    if (root / place).exists():
        (root / place).rename(tmp_path / "moved")
    (root / place).symlink_to(tmp_path / "gone")
    with pytest.raises(
        FedShieldError, match=rf"pets/{place}: a link to .*/gone, which does not exist; repair or remove it$"
    ):
        load_data("folder", str(root), 16)


def test_images_in_no_class_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture, speaking: None) -> None:
    logging.getLogger("fedshield").propagate = True
    caplog.set_level(logging.INFO, "fedshield")
    root = make_folder(tmp_path / "pets")
    (root / "train" / "dog" / "0.png").rename(root / "train" / "0.png")
    assert len(load_data("folder", str(root), 16).train.labels) == 5
    assert "1 other files are ignored: not named as images, or not in the folder of a class" in caplog.text
    assert f"(first: {root}/train/0.png)" in caplog.text


@contextmanager
def without(rights: Path) -> Iterator[None]:
    """Let nobody look into a folder, and be a user who is refused: root may read everything."""
    user = os.geteuid()
    rights.chmod(0)
    try:
        if user == 0:
            os.seteuid(65534)
        yield
    finally:
        os.seteuid(user)
        rights.chmod(0o700)


@pytest.mark.parametrize("place", [".", "train", "train/dog", "train/dog/2024"])
def test_a_folder_that_may_not_be_read_is_named(place: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = make_folder(Path(folder) / "pets")
        Path(folder).chmod(0o755)
        (root / "train" / "dog" / "2024").mkdir()
        named = root / "train" if place == "." else root / place  # what is asked for in a folder that is closed
        with (
            without(root / place),
            pytest.raises(FedShieldError, match=rf"^{named}: Permission denied; check the permissions"),
        ):
            load_data("folder", str(root), 16)


def test_a_link_to_where_nobody_may_look_is_named() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = make_folder(Path(folder) / "pets")
        Path(folder).chmod(0o755)
        closed = Path(folder) / "closed"
        (closed / "dog").mkdir(parents=True)
        (root / "train" / "dog" / "more").symlink_to(closed / "dog")
        with without(closed), pytest.raises(FedShieldError, match=r"train/dog/more: Permission denied; check the perm"):
            load_data("folder", str(root), 16)


def test_second_load_reads_the_cache_alone_and_a_change_is_noticed(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pets")
    first = load_data("folder", str(root), 16)
    assert isinstance(first.train.images, np.memmap)
    path = root / "train" / "cat" / "0.png"
    stamp, size = path.stat().st_mtime_ns, path.stat().st_size
    path.write_bytes(b"x" * size)  # what is not decoded again is not read again either
    os.utime(path, ns=(stamp, stamp))
    assert np.array_equal(load_data("folder", str(root), 16).train.images, first.train.images)
    os.utime(path, ns=(stamp + 1, stamp + 1))
    with pytest.raises(FedShieldError, match=r"cat/0\.png: not a readable image"):
        load_data("folder", str(root), 16)


def test_truncated_image_is_named_and_leaves_no_cache_behind(tmp_path: Path, cache: Path) -> None:
    root = make_folder(tmp_path / "pets", suffix="jpg")
    path = root / "test" / "dog" / "1.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    before = {entry for entry in cache.iterdir() if entry.is_dir()}
    with pytest.raises(FedShieldError, match=r"test/dog/1\.jpg: not a readable image .*; repair or remove the file"):
        load_data("folder", str(root), 16)
    assert {entry for entry in cache.iterdir() if entry.is_dir()} == before


def test_missing_folder_and_unequal_classes_are_named(tmp_path: Path) -> None:
    with pytest.raises(FedShieldError, match=r"data\.root: no folder .*nowhere/train; an image folder has"):
        load_data("folder", str(tmp_path / "nowhere"), 16)
    root = make_folder(tmp_path / "pets")
    (root / "test" / "dog").rename(root / "test" / "wolf")
    with pytest.raises(FedShieldError, match="same classes; only one of them has: dog, wolf"):
        load_data("folder", str(root), 16)
    (root / "train" / "empty").mkdir()
    with pytest.raises(FedShieldError, match=r"train/empty: no images in it"):
        load_data("folder", str(root), 16)


def test_a_damaged_cache_is_made_anew(tmp_path: Path, cache: Path) -> None:
    root = make_folder(tmp_path / "pets")
    load_data("folder", str(root), 16)
    place = cache / "datasets" / data_key("folder", str(root), 16)
    images = place / "train-images.npy"
    content = images.read_bytes()
    for damaged in (content[:-10], b"", None):
        images.unlink()
        if damaged is not None:
            images.write_bytes(damaged)
        load_data("folder", str(root), 16)
        assert images.read_bytes() == content
    assert not list(place.parent.glob("*.partial"))


def keep_together(place: str, barrier: threading.Barrier) -> None:
    """Keep the same arrays in many places, each at the same moment as other processes."""
    for number in range(30):
        folder = Path(place) / str(number)
        barrier.wait(60)
        found = keep_arrays(
            folder, lambda: {"rows": np.arange(100_000)}, lambda folder=folder: find_arrays(folder, ("rows",))
        )
        assert found["rows"][-1] == 99_999


def test_processes_that_keep_the_same_arrays_do_not_disturb_each_other(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(4)
    processes = [spawn.Process(target=keep_together, args=(str(tmp_path), barrier)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 4


# Makes arrays in a place of the cache, and stops before the second of them is written.
STANDS_STILL = """
import sys
from pathlib import Path
import numpy as np
from common.data import array_cache
save = np.save

def wait(path, array):
    if "second" in str(path):
        print("half", flush=True)
        sys.stdin.readline()
    save(path, array)

np.save = wait
place, arrays = Path(sys.argv[1]), {"first": np.arange(9), "second": np.arange(9)}
array_cache.keep_arrays(place, lambda: arrays, lambda: array_cache.find_arrays(place, tuple(arrays)))
"""


def test_what_a_killed_process_has_left_in_the_cache_is_cleared_by_the_next_one(tmp_path: Path) -> None:
    def begin(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", STANDS_STILL, str(tmp_path / name)]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        return process

    killed, living = begin("killed"), begin("living")
    killed.kill()
    killed.wait(60)
    assert len([entry for entry in tmp_path.iterdir() if entry.is_dir()]) == 2
    arrays = {"rows": np.arange(3)}
    keep_arrays(tmp_path / "ours", lambda: arrays, lambda: find_arrays(tmp_path / "ours", ("rows",)))
    assert sorted(entry.name for entry in tmp_path.iterdir() if entry.is_dir()) == ["living.partial", "ours"]
    living.communicate("\n", timeout=300)
    assert living.returncode == 0
    assert find_arrays(tmp_path / "living", ("first", "second")) is not None
    assert sorted(entry.name for entry in tmp_path.iterdir() if entry.is_dir()) == ["living", "ours"]


# Two users, one after the other; a test that is not run by root takes the second one's rights away instead.
TWO_USERS = """
import os, sys
from pathlib import Path
import numpy as np
from common.data.array_cache import find_arrays, keep_arrays
from common.errors import FedShieldError

def keep(user, umask, name):
    if os.fork() == 0:
        os.umask(umask)
        if os.getuid() == 0:
            os.setgid(1000)
            os.setuid(user)
        elif user == 1002:
            os.chmod(cache, 0o755 if umask == 0o002 else 0o555)
        place, arrays = cache / name, {"rows": np.arange(9)}
        find = lambda: find_arrays(place, ("rows",))
        try:
            print(user, name, (find() or keep_arrays(place, lambda: arrays, find))["rows"].sum(), flush=True)
        except FedShieldError as error:
            print(user, name, error, flush=True)
        os._exit(0)
    os.wait()

top = Path(sys.argv[1])
keep_arrays(top / "first", lambda: {"rows": np.arange(9)}, lambda: find_arrays(top / "first", ("rows",)))  # imports
for umask in (0o022, 0o002):
    cache = top / oct(umask) / "parts"
    keep(1001, umask, "one")
    keep(1002, umask, "one")
    keep(1002, umask, "other")
"""


def test_two_users_share_a_cache_or_are_told_why_not() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        command = [sys.executable, "-c", TWO_USERS, folder]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        place = f"{folder}/0o22/parts/other"
        assert done.stdout.splitlines() == [
            *("1001 one 36", "1002 one 36"),
            f"1002 other {place}.lock: Permission denied: this is FedShield's cache; set FEDSHIELD_CACHE to a "
            "folder that you may write to, or ask the owner of this one for access",
            *("1001 one 36", "1002 one 36", "1002 other 36"),
        ]


def test_a_class_that_is_not_named_in_utf_8_is_named(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pets")
    for part in ("train", "test"):
        (root / part / "dog").rename(root / part / os.fsdecode(b"ch\xedo"))
    with pytest.raises(FedShieldError, match=r"train: the folder 'ch\\udcedo' is not named in UTF-8; rename it"):
        load_data("folder", str(root), 16)


def test_a_process_can_use_what_another_has_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(make_folder(tmp_path / "pets"))
    found, key = load_data("folder", root, 16), data_key("folder", root, 16)
    # On this machine: the cache is there, nobody fetches, and the folder is not looked at.
    adopt_data("folder", "/elsewhere", 16, key, lambda: pytest.fail("fetched"))
    assert np.array_equal(load_data("folder", "/elsewhere", 16).train.images, found.train.images)
    # On another one: fetched once, then kept there.
    monkeypatch.setenv("FEDSHIELD_CACHE", str(tmp_path / "far"))
    adopt_data("folder", "/elsewhere", 16, key, lambda: found)
    assert np.array_equal(load_data("folder", "/elsewhere", 16).test.images, found.test.images)
    adopt_data("folder", "/elsewhere", 16, key, lambda: pytest.fail("fetched again"))
    assert load_data("folder", "/elsewhere", 16).train.classes == found.train.classes


@given(
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=6).filter(any),
    share=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
@settings(max_examples=50, deadline=None)
def test_balanced_subset_takes_the_classes_in_turn(counts: list[int], share: float, seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    count = max(1, round(share * len(labels)))
    chosen = balanced_subset(labels, count, seed, "test")
    found = np.bincount(labels[chosen], minlength=len(counts))
    assert len(chosen) == len(set(chosen.tolist())) == count
    assert np.all(np.diff(chosen) > 0)
    # A class is behind another by more than one only when it has no more images.
    assert all(found[label] >= found.max() - 1 or found[label] == counts[label] for label in range(len(counts)))
    larger = balanced_subset(labels, min(count + 1, len(labels)), seed, "test")
    assert set(chosen.tolist()) <= set(larger.tolist())


def test_photographs_are_squashed_cropped_or_padded(tmp_path: Path) -> None:
    # 32 wide and 16 high: a black left quarter, a gray middle, a white right quarter.
    pixels = np.full((16, 32, 3), 128, np.uint8)
    pixels[:, :8], pixels[:, 24:] = 0, 255
    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.fromarray(pixels).save(tmp_path / part / name / "0.png")
    path = str(tmp_path / "train" / "a" / "0.png")
    squashed, cropped, padded = (decode_images([path], 16, how)[0, 0] for how in ("squash", "crop", "pad"))
    assert np.array_equal(decode_images([path], 16)[0, 0], squashed)
    assert (squashed[:, 0] == 0).all()
    assert (squashed[:, -1] == 255).all()
    assert (cropped == 128).all()
    assert (padded[:4] == 0).all()
    assert (padded[12:] == 0).all()
    assert np.array_equal(padded[8], squashed[8])
    keys = {how: data_key("folder", str(tmp_path), 16, how) for how in ("squash", "crop", "pad")}
    assert len(set(keys.values())) == 3
    assert keys["squash"] == data_key("folder", str(tmp_path), 16)
    assert (load_data("folder", str(tmp_path), 16, "crop").train.images == 128).all()
    assert (load_data("folder", str(tmp_path), 16, "pad").test.images[:, :, :4] == 0).all()
