import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_counter.config import redacted


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql://me:pw@db:5432/shop", "postgresql://me:***@db:5432/shop"),
        ("postgresql://me:p@w@db/shop", "postgresql://me:***@db/shop"),
        ("postgresql://me:p/w?d#@db/shop", "postgresql://me:***@db/shop"),
        (
            "postgresql://db/shop?user=me&password=pw&sslmode=require",
            "postgresql://db/shop?user=me&password=***&sslmode=require",
        ),
        ("postgresql://me@db/shop", "postgresql://me@db/shop"),
        ("postgresql:///shop?host=/run/postgresql", "postgresql:///shop?host=/run/postgresql"),
        ("host=db password=pw user=me", "host=db password=*** user=me"),
        ("host=db password = 'p w\\' x' user=me", "host=db password = *** user=me"),
        ("password='unclosed pw", "password=***"),
        ("sslpassword=pw PASSWORD=pw2", "sslpassword=*** PASSWORD=***"),
        ("redis://:pw@cache:6379/0", "redis://:***@cache:6379/0"),
        ("rediss://app:pw@cache/0", "rediss://app:***@cache/0"),
        ("unix://:pw@/run/redis.sock", "unix://:***@/run/redis.sock"),
        (
            "connection to postgresql://a:b@c and redis://d:e@f failed",
            "connection to postgresql://a:***@c and redis://d:***@f failed",
        ),
        ("no secret at all: 3 @ 4", "no secret at all: 3 @ 4"),
    ],
)
def test_password_is_masked_and_the_rest_stays(dsn: str, shown: str) -> None:
    assert redacted(dsn) == shown


_PASSWORD = st.text(st.characters(codec="ascii", exclude_characters="\0 \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f@"), min_size=1)


@given(_PASSWORD)
def test_no_password_survives_in_a_url(password: str) -> None:
    assert redacted(f"postgresql://me:{password}@db/shop") == "postgresql://me:***@db/shop"


@given(_PASSWORD)
def test_no_quoted_password_survives_in_key_value_form(password: str) -> None:
    quoted = password.replace("\\", "\\\\").replace("'", "\\'")
    assert redacted(f"host=db password='{quoted}' user=me") == "host=db password=*** user=me"


@given(st.text())
def test_any_text_is_taken_and_masking_twice_changes_nothing(text: str) -> None:
    assert redacted(redacted(text)) == redacted(text)
