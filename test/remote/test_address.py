"""Where a server is: URLs that are read, and those that are refused before anything is sent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmo2_ros.errors import ConfigError
from molmo2_ros.remote.address import is_url, parse_address


@pytest.mark.parametrize(
    ("url", "written"),
    [
        ("http://host:8000/v1", "http://host:8000/v1"),
        ("http://host:8000", "http://host:8000/v1"),
        ("https://robots.example/", "https://robots.example:443/v1"),
        ("http://10.0.0.7/llm/v1/", "http://10.0.0.7:80/llm/v1"),
        ("HTTP://Host:8000/v1", "http://host:8000/v1"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
    ],
)
def test_a_url_is_read_and_completed(url, written):
    assert is_url(url)
    assert str(parse_address(url)) == written


@pytest.mark.parametrize("engine", ["nano", "./http", "/engines/molmo2-4b", "C:/engines", ""])
def test_a_folder_is_no_url(engine):
    assert not is_url(engine)


@pytest.mark.parametrize(
    ("url", "trouble"),
    [
        ("ftp://host/v1", "begins with ftp://, expected http"),
        ("file:///etc/passwd", "begins with file://"),
        ("http://:8000/v1", "names no host"),
        ("http://host:0/v1", "names no host and port"),
        ("http://host:99999/v1", "cannot be read"),
        ("http://host:port/v1", "cannot be read"),
        ("http://[::1/v1", "cannot be read"),
        ("http://ho st:8000/v1", "blanks"),
        ("http://host:8000/v1\r\nX: y", "blanks"),
        ("http://host/v1?key=1", "a query"),
        ("http://host/v1#x", "a fragment"),
        ("http://host/v1%0d%0a", "unusual characters"),
        ("http://" + "a" * 3000, "3007 characters"),
    ],
)
def test_an_unfit_url_is_refused(url, trouble):
    assert is_url(url)
    with pytest.raises(ConfigError, match=trouble):
        parse_address(url)


@pytest.mark.parametrize("url", ["http://me:s3cret@host/v1", "https://s3cret@host/v1"])
def test_credentials_in_a_url_are_refused_and_not_repeated(url):
    with pytest.raises(ConfigError, match="user or a password.*MOLMO2_API_KEY") as caught:
        parse_address(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "is_near"),
    [
        ("http://localhost/v1", True),
        ("http://127.0.0.9/v1", True),
        ("http://[::1]/v1", True),
        ("http://192.168.1.2/v1", False),
        ("http://localhost.example/v1", False),
    ],
)
def test_what_leaves_the_machine_is_known(url, is_near):
    assert parse_address(url).is_this_machine is is_near


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_a_config_error(text):
    try:
        address = parse_address("http://" + text)
    except ConfigError:
        return
    assert parse_address(str(address)) == address
