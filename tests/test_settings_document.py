"""YAML is read as PyYAML reads it, or refused with its line."""

import pytest
import yaml
from hypothesis import assume, example, given
from hypothesis import strategies as st

from optinfra.settings import (
    SettingsError,
    load,
    read,
)
from tests.settings_cases import JSON


def test_yaml_1_1_numbers_that_look_like_text_are_numbers():
    text = "behaviors: {a: {trainer_type: ppo, max_steps: 1e7, hyperparameters: {beta: 3e-4}}}"
    behavior = load(text).behaviors["a"]
    assert (behavior.max_steps, behavior.hyperparameters.beta) == (10_000_000, 3e-4)


PIECES = st.sampled_from(
    ["a", "b", "<<", ": ", ": ", "\n", "\n  ", "- ", "&x ", "*x", "[", "]", "{", "}", ", ", "'",
     '"', "1", "~", "!!str ", "!!bool ", "!!int ", "2020-99-99", "# ", "|", "? ", "%", "\t", "\0",
     "---", "!!set ", "!!timestamp "]
)  # fmt: skip


@given(st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=30))
@example("!!bool x: 1")
@example("a: !!timestamp b")
@example("a: &x {<<: *x}")
@example("a: &x [*x]")
@example("? [a]\n: 1")
def test_any_text_is_read_as_safe_load_reads_it_or_refused(text):
    try:
        data = read(text).data
    except SettingsError as error:
        assert all(line.startswith("<text>") for line in str(error).splitlines())
        return
    assert (yaml.safe_load(text) or {}) == data


@given(JSON)
def test_plain_data_is_read_back(data):
    assume(data is not None)
    assert read(yaml.safe_dump({"key": data})).data == {"key": data}


def test_merge_keys_yield_to_what_is_written_and_to_each_other():
    text = (
        "a: &a {x: 1, y: 1, z: 1}\nb: &b {y: 2, z: 2, v: 2}\n"
        "c:\n  z: 3\n  <<: [*a, *b]\n  w: 3\nd:\n  <<: *b\n"
    )
    document = read(text)
    assert document.data == yaml.safe_load(text)
    assert document.data["c"] == {"x": 1, "y": 1, "z": 3, "v": 2, "w": 3}
    assert document.locate(("c", "w")) == "<text>:6: c.w"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a:\n  b: 1\n  c: 2\n  b: 3", "<text>:4: a.b: this key stands twice."),
        ("a: [1, {b: 1, b: 2}]", "<text>:1: a.1.b: this key stands twice."),
        ("a: 1\n1: 2", "<text>:2: expected text as a key, got 1."),
        ("a:\n  on: 2", "<text>:2: a: expected text as a key, got true."),
        ("a: 2020-01-01", "<text>:1: a: expected text or a number, got 2020-01-01. Put it in q"),
        ("a: !!set {b}", "<text>:1: a: expected no tag, got tag:yaml.org,2002:set."),
        ("\na: !x 1", "<text>:2: not YAML: could not determine a constructor for the tag"),
        ("a: {b: [}", "<text>:1: not YAML: expected the node content, but found '}'."),
        ("a: 1\n---\nb: 1", "<text>:2: not YAML: but found another document."),
        ("a: \0", "<text>: not YAML: unacceptable character #x0000"),
        ("a: {<<: 1}", "<text>:1: a: expected a mapping after <<, got 1."),
        ("[1, 2]", "<text>: expected a mapping of settings, got [1, 2]."),
        ("config.yaml", '<text>: expected a mapping of settings, got "config.yaml". A file is'),
        ("[" * 3000, "<text>: nested too deeply."),
        ("a: &a [*a]", "<text>: too much: aliases that multiply or nest too deeply."),
        ("a: &a {<<: *a}", "<text>: nested too deeply."),
    ],
)
def test_text_that_is_no_configuration_is_refused_in_one_line(text, line):
    with pytest.raises(SettingsError) as error:
        read(text)
    assert str(error.value).startswith(line) and "\n" not in str(error.value)


def test_aliases_that_multiply_are_refused():
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 6)]
    with pytest.raises(SettingsError, match="aliases that multiply"):
        read("\n".join(lines))


def test_files_that_cannot_be_read_are_named(tmp_path):
    path = tmp_path / "config.yaml"
    with pytest.raises(SettingsError, match=f"^{path}: no such file or directory.$"):
        load(path)
    with pytest.raises(SettingsError, match=f"^{tmp_path}: is a directory.$"):
        load(tmp_path)
    path.write_bytes(b"debug: \xff")
    with pytest.raises(SettingsError, match=f"^{path}: not UTF-8 text: byte 7 is 0xff.$"):
        load(path)
    path.write_bytes(b"\xef\xbb\xbfdebug: true")
    assert load(path).debug  # Windows' editors mark UTF-8


@pytest.mark.parametrize("filler", [b"#", "é".encode()])
def test_a_file_of_more_than_a_megabyte_is_refused(tmp_path, filler):
    path = tmp_path / "config.yaml"
    path.write_bytes(b"#" + filler * 2**20)
    with pytest.raises(SettingsError, match=f"^{path}: expected at most 1048576 bytes"):
        load(path)
    with pytest.raises(SettingsError, match=r"^<text>: expected at most 1048576 bytes"):
        load("#" * (2**20 + 1))


def test_a_source_of_another_kind_is_refused():
    with pytest.raises(TypeError, match="`source` must be a Path, YAML text or a mapping"):
        load(3)
    with pytest.raises(SettingsError, match=r"^settings: expected text as a key, got 3"):
        load({3: 4})
