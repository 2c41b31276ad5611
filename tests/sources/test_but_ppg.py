"""BUT PPG: the release's tables, where things are, which way up a camera is."""

import math
from pathlib import Path

import numpy as np
import pytest
from but_ppg_release import pulse, write_checksums, write_release, write_second_form, write_tables
from conftest import REAL_DATA
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from butppg_lightning.errors import UserError
from butppg_lightning.sources.but_ppg.assemble import decide_polarity, pulse_share, sign_test, upstroke_skewness
from butppg_lightning.sources.but_ppg.release import find_release, read_annotations
from butppg_lightning.sources.resampling import resample
from butppg_lightning.window import read_windows

TABLES = REAL_DATA / "but_ppg_annotations"


@pytest.mark.skipif(not TABLES.is_dir(), reason="no real recordings beside the checkout")
def test_the_tables_of_the_second_release() -> None:
    found = read_annotations(TABLES / "quality-hr-ann.csv", TABLES / "subject-info.csv")
    assert len(found) == 3888
    assert len({item.subject for item in found.values()}) == 50
    assert sum(item.label for item in found.values()) == 830
    assert sum(item.motion == "2;3" for item in found.values()) == 12
    assert sum(item.site == "ear" for item in found.values()) == 1962
    assert sum(item.site == "finger" for item in found.values()) == 1926
    assert {item.sex for item in found.values()} == {"F", "M"}
    assert all(30 < item.heart_rate < 200 for item in found.values())
    first = found["112001"]
    assert (first.age, first.height, first.weight, first.blood_pressure) == (43, 180, 76, "137/94")
    assert (first.glycaemia, first.spo2) == (5.8, 97)
    assert math.isnan(found["100001"].height)


def test_columns_are_known_by_name_whatever_the_order_or_delimiter(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("hr;Signal_ID; QUALITY\n71;100002;0\n\n;100001;1.0\n80;100003;maybe\n")
    (tmp_path / "i.csv").write_text("Motion,Sex,ID\n 2; 3,f,100001\n")
    found = read_annotations(tmp_path / "q.csv", tmp_path / "i.csv")
    assert list(found) == ["100001", "100002", "100003"]
    assert [item.label for item in found.values()] == [1, 0, None]
    assert math.isnan(found["100001"].heart_rate)
    assert (found["100001"].motion, found["100001"].sex, found["100001"].site) == ("2;3", "F", "")
    assert found["100002"].motion == ""


@pytest.mark.parametrize(
    ("quality", "words"),
    [
        ("ID,HR\n100001,70\n", "no column 'QUALITY'"),
        ("", "no column 'ID'"),
        ("ID,Quality,HR\n100001,1,70\n100001,0,70\n", "line 3: record 100001 is there twice"),
        ("ID,Quality,HR\n1e5,1,70\n", "line 2: '1e5' is no record"),
        ("ID,Quality,HR\n100001,1,\xff\n", "cannot be read as a CSV"),
    ],
)
def test_a_table_that_is_none_is_said_in_one_line(quality: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_bytes(quality.encode("latin-1"))
    (tmp_path / "i.csv").write_text("ID\n")
    with pytest.raises(UserError, match=words):
        read_annotations(tmp_path / "q.csv", tmp_path / "i.csv")


@given(content=st.one_of(st.binary(max_size=100), st.text(st.sampled_from('ID,Quality;HR\n"01\r\0 '), max_size=80)))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_end_in_annotations_or_in_one_line(content: bytes | str, tmp_path: Path) -> None:
    body = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "i.csv").write_text("ID\n")
    for head in (b"", b"\xef\xbb\xbfID,Quality,HR\n"):
        (tmp_path / "q.csv").write_bytes(head + body)
        message, found = "", {}
        try:
            found = read_annotations(tmp_path / "q.csv", tmp_path / "i.csv")
        except UserError as error:
            message = str(error)
        assert "\n" not in message
        assert all(len(record) == 6 for record in found)


def test_a_release_is_found_wherever_it_was_unpacked(tmp_path: Path) -> None:
    root = tmp_path / "downloads" / "but-ppg-2.0.0" / "but-ppg-2.0.0"
    write_release(root, checksums=True)
    for source in (tmp_path / "downloads", root.parent, root):
        release = find_release(source)
        assert len(release.records) == 32
        assert release.records["112001"] == root / "112001"
        assert set(release.checksums_of("112001")) == {
            f"112001_{kind}.{suffix}" for kind in ("PPG", "ECG", "ACC") for suffix in ("hea", "dat")
        }
        assert len(release.checksums_of("100001")) == 4


def test_what_is_no_release_is_said_in_one_line(tmp_path: Path) -> None:
    def refused(source: Path) -> str:
        with pytest.raises(UserError) as error:
            find_release(source)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "does not exist" in refused(tmp_path / "nowhere")
    (tmp_path / "butppg.zip").write_bytes(b"PK")
    assert "unpack it" in refused(tmp_path / "butppg.zip")
    assert "no quality-hr-ann.csv" in refused(tmp_path)
    write_tables(tmp_path / "one", {"112001": (1, 70)})
    assert "holds no records" in refused(tmp_path)
    write_second_form(tmp_path / "one", "112001")
    assert "112001" in find_release(tmp_path).records
    (tmp_path / "one" / "subject-info.csv").rename(tmp_path / "elsewhere.csv")
    assert "no subject-info.csv" in refused(tmp_path)
    (tmp_path / "elsewhere.csv").rename(tmp_path / "one" / "subject-info.csv")
    write_checksums(tmp_path / "one")
    write_tables(tmp_path / "one", {"112001": (0, 70)})
    assert "quality-hr-ann.csv does not match SHA256SUMS.txt" in refused(tmp_path)
    write_tables(tmp_path / "two", {"112001": (1, 70)})
    assert "2 times" in refused(tmp_path)
    (tmp_path / "two" / "quality-hr-ann.csv").unlink()
    (tmp_path / "two" / "subject-info.csv").unlink()
    write_second_form(tmp_path / "two", "112001")
    assert "record 112001 is in" in refused(tmp_path)


def waves(count: int, noise: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rates = rng.uniform(55, 110, count)
    raw = np.stack([resample(pulse(30, rate, rng.uniform()), 30) for rate in rates])
    return raw + noise * rng.normal(size=raw.shape)


@pytest.mark.parametrize("offset", [0, -254, 180])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_steep_slope_tells_which_way_up(sign: int, offset: float) -> None:
    skewness = upstroke_skewness(offset + sign * waves(20, 0.05))
    assert (np.sign(skewness) == sign).all()
    found = decide_polarity("v2_ear", skewness, "auto")
    assert found["invert"] == (sign == -1)
    assert found["decided"]
    assert decide_polarity("v2_ear", skewness, "invert")["invert"]
    assert not decide_polarity("v2_ear", skewness, "keep")["invert"]
    assert not decide_polarity("v1_finger", skewness, "auto")["invert"], "published with systole up"


def test_noise_and_few_records_decide_nothing() -> None:
    noise = upstroke_skewness(np.random.default_rng(1).normal(size=(60, 1250)))
    for skewness in (noise, upstroke_skewness(-waves(4, 0.05)), np.empty(0), upstroke_skewness(np.ones((9, 1250)))):
        found = decide_polarity("v2_ear", skewness, "auto")
        assert not found["invert"]
        assert not found["decided"]
    assert sign_test(400, 500) < 0.01 < sign_test(440, 460)


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="no real recordings beside the checkout")
def test_bedside_pulses_are_systole_up() -> None:
    windows = read_windows(REAL_DATA / "bidmc" / "val_windows.npz", labelled=False)
    skewness = upstroke_skewness(windows.signals[:, windows.channels.index("PPG")])
    assert (skewness > 0).mean() > 0.95


def test_the_share_of_pulse_tells_colours_apart() -> None:
    rates = np.full(10, 72.0)
    clean = np.stack([resample(pulse(30, 72, place / 10), 30) for place in range(10)])
    noise = np.random.default_rng(0).normal(size=clean.shape)
    shares = [pulse_share(-254 + clean + level * noise, rates).mean() for level in (0, 1, 4, 1000)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.8
    assert shares[-1] < 0.25
    assert pulse_share(clean, rates * 1.6).max() < 0.1, "another rate is no pulse"
    assert np.isnan(pulse_share(clean, np.full(10, np.nan))).all()
    assert pulse_share(np.ones((1, 1250)), np.array([72.0])) == 0
