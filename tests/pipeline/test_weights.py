"""Weight files: the hash comes first, no code is run, and every tensor must fit."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.bundle import Bundle, BundleError, load_state_dict, load_weights
from pipeline.models.weights import sha256_of


def bundle_of(path: Path, sha256: str | None = None) -> Bundle:
    return Bundle(
        "own", "detector", "groundingdino-tiny", path, sha256 or hashlib.sha256(path.read_bytes()).hexdigest()
    )


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))


def saved(path: Path, content: Any, **options: Any) -> Bundle:
    torch.save(content, path, **options)
    return bundle_of(path)


def assert_equal(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert state.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(state[key], tensor), key


def test_sha256_of(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # the example of FIPS 180-2
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_official_formats(zipped: bool, wrapped: bool, prefix: str, tmp_path: Path) -> None:
    source, target = model(), model()
    state = {prefix + key: tensor for key, tensor in source.state_dict().items()}
    content = {"model": state, "epoch": 7} if wrapped else state
    load_weights(target, saved(tmp_path / "w.pth", content, _use_new_zipfile_serialization=zipped))
    assert_equal(target.state_dict(), source.state_dict())


def test_safetensors(tmp_path: Path) -> None:
    source, target = model(), model()
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    load_weights(target, bundle_of(tmp_path / "w.safetensors"))
    assert_equal(target.state_dict(), source.state_dict())


@pytest.mark.parametrize("key", ["label_enc.weight", "bert.embeddings.position_ids"])
def test_harmless_keys_are_left_over(key: str, tmp_path: Path) -> None:
    source, target = model(), model()
    extra = {"module." + name: tensor for name, tensor in (source.state_dict() | {key: torch.zeros(2)}).items()}
    load_weights(target, saved(tmp_path / "w.pth", {"model": extra}))
    assert_equal(target.state_dict(), source.state_dict())


def test_a_harmless_key_that_the_model_has_is_loaded(tmp_path: Path) -> None:
    source, target = nn.ModuleDict({"label_enc": nn.Linear(2, 2)}), nn.ModuleDict({"label_enc": nn.Linear(2, 2)})
    load_weights(target, saved(tmp_path / "w.pth", source.state_dict()))
    assert_equal(target.state_dict(), source.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0.bias": None}, "1 missing: 0.bias"),
        ({"2.weight": torch.zeros(1)}, "1 not part of it: 2.weight"),
        ({"0.bias": torch.zeros(5)}, "1 of another shape: 0.bias"),
        ({"0.bias": None, "0.bies": torch.zeros(4)}, "1 missing: 0.bias; 1 not part of it: 0.bies"),
    ],
)
def test_strict_but_for_the_harmless_keys(change: dict[str, Tensor | None], message: str, tmp_path: Path) -> None:
    target = model()
    before = {key: tensor.clone() for key, tensor in target.state_dict().items()}
    state = {key: tensor for key, tensor in (model().state_dict() | change).items() if tensor is not None}
    with pytest.raises(BundleError, match=message):
        load_weights(target, saved(tmp_path / "w.pth", state))
    assert_equal(target.state_dict(), before)  # refused as a whole, nothing half loaded


class RunsCode:
    """Pickles into a call of `os.mkdir`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_in_it_is_refused(zipped: bool, tmp_path: Path) -> None:
    trace = tmp_path / "code-ran"
    content = model().state_dict() | {"evil": RunsCode(trace)}
    bundle = saved(tmp_path / "w.pth", content, _use_new_zipfile_serialization=zipped)
    with pytest.raises(BundleError, match="a pickle can run code: refused"):
        load_state_dict(bundle)
    assert not trace.exists()
    torch.load(bundle.weights, weights_only=False)  # the file is as dangerous as it is meant to be
    assert trace.exists()


def test_the_hash_is_checked_before_the_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = saved(tmp_path / "w.pth", model().state_dict())
    with bundle.weights.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    monkeypatch.setattr(torch, "load", lambda *_args, **_options: pytest.fail("the file was read"))
    with pytest.raises(BundleError, match=f"expected {bundle.sha256}"):
        load_state_dict(bundle)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("raw", [b"", b"PK\x03\x04", b"not weights at all", b"\x80\x02", b"\x80\x02.", b"\xff" * 64])
def test_files_that_hold_no_weights(suffix: str, raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(raw)
    with pytest.raises(BundleError, match=str(path)):
        load_state_dict(bundle_of(path))


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.99])
def test_truncated_files(cut: float, tmp_path: Path) -> None:
    whole = saved(tmp_path / "w.pth", model().state_dict()).weights.read_bytes()
    path = tmp_path / "cut.pth"
    path.write_bytes(whole[: int(len(whole) * cut)])
    with pytest.raises(BundleError, match=str(path)):
        load_state_dict(bundle_of(path))


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"model": {"a": 1}}, {"a": "text"}, torch.zeros(1), None])
def test_content_that_is_not_tensors_by_name(content: Any, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="must hold tensors by name"):
        load_state_dict(saved(tmp_path / "w.pth", content))


def test_a_tensor_given_twice(tmp_path: Path) -> None:
    content = {"a": torch.zeros(1), "module.a": torch.ones(1)}
    with pytest.raises(BundleError, match="with and without the prefix"):
        load_state_dict(saved(tmp_path / "w.pth", content))


def test_a_file_that_went_away(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be read"):
        load_state_dict(bundle_of(tmp_path / "gone.pth", "0" * 64))
