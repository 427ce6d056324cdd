import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsm_queue.data.text import normalize, normalize_with_origins, repeats_itself

CHARACTERS = st.sampled_from("堤防ハバパｶﾞﾟはﾊ\u3099\u309a\u0301aAÅﬁß①㎥㍍㌔ １２.,　 \n\t。…―🌊")


@given(st.text(alphabet=CHARACTERS))
def test_origins_agree_with_normalize(text: str) -> None:
    normalized, origins = normalize_with_origins(text)
    assert normalized == normalize(text)
    assert len(origins) == len(normalized)
    assert all(0 <= start < end <= len(text) for start, end in origins)
    assert origins == sorted(origins)


@given(st.text())
def test_normalizing_twice_changes_nothing_in_width_and_spaces(text: str) -> None:
    once = normalize(text)
    assert not any(character.isspace() for character in once)
    assert normalize(unicodedata.normalize("NFKC", text)) == once or "\u0345" in unicodedata.normalize("NFKD", text)


def test_width_case_and_spaces_do_not_matter() -> None:
    assert normalize(" ＡＤＣＰ　ﾎﾟﾝﾌﾟ ") == normalize("adcpポンプ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("堤防です堤防です堤防です", True),
        ("堤防を毎年点検します。異常はない。堤防を毎年点検します。", True),
        ("堤防を点検します。護岸を点検します。", False),
        ("はい。はい。", False),
    ],
)
def test_repeats_itself(text: str, expected: bool) -> None:
    assert repeats_itself(text) is expected
