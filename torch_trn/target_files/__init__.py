"""Target files: packaged or a user's own, loaded from TOML, checked, and as plain values with their sources."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NoReturn

from .schema import FIELDS, Reader, Source, TargetError, suggest

__all__ = ["DEFAULT", "HEADER", "Source", "TargetError", "TargetFile", "load", "names", "resolve", "rows"]

DEFAULT = "trn2"
HEADER = ("target", "core", "devices per chip", "HBM per device", "peak per device", "instances")
_FOLDER = os.path.dirname(os.path.abspath(__file__))
_cache: dict[str, TargetFile] = {}


class _Frozen(dict[str, Any]):
    """A dict that is shared by all who load the same file, and so refuses to change."""

    def _refuse(self, *args: object, **kwargs: object) -> NoReturn:
        raise TypeError("[target] a loaded target is read-only; got a change. Change a copy: target.to_dict().")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def to_dict(self) -> dict[str, Any]:
        """A plain, mutable copy."""
        return {key: _thaw(value) for key, value in self.items()}

    def __reduce__(self) -> tuple[type, tuple[dict[str, Any]]]:
        return dict, (self.to_dict(),)


class TargetFile(_Frozen):
    """A checked target: name, core, device, chip and instances as plain values, as `_C.Target` takes them.

    `sources` maps a figure's dotted path ("core.tensor_clock_hz", "instance[0].link[1].bytes_per_second") to its
    Source; `documented` holds the printed totals that the figures reproduce; `path` is the file.
    """

    path: str
    sources: Mapping[str, Source]
    documented: Mapping[str, Any]
    _files: tuple[tuple[str, int], ...]

    def uncertain(self) -> dict[str, Source]:
        """The figures that no document prints: derived, calibrated or estimated."""
        return {k: s for k, s in self.sources.items() if s.derived or s.calibrated or s.estimate}


def names() -> list[str]:
    """The packaged targets."""
    return sorted(entry[: -len(".toml")] for entry in os.listdir(_FOLDER) if entry.endswith(".toml"))


def load(name_or_path: str | os.PathLike[str]) -> TargetFile:
    """The target of that name, or of that TOML file. Raises TargetError, which names file and field."""
    path = _locate(name_or_path, os.getcwd())
    cached = _cache.get(path)
    if cached is not None and all(_mtime(file) == mtime for file, mtime in cached._files):
        return cached
    target = _cache[path] = _read(path)
    return target


def resolve(env: Mapping[str, str] | None = None) -> TargetFile:
    """The target that TORCH_TRN_TARGET names (a packaged name or a path), or the default."""
    choice = (os.environ if env is None else env).get("TORCH_TRN_TARGET", "").strip()
    if not choice:
        return load(DEFAULT)
    try:
        return load(choice)
    except TargetError as error:
        raise TargetError(f"{error} TORCH_TRN_TARGET={choice} chose it.") from None


def rows(targets: Iterable[TargetFile] | None = None) -> list[tuple[str, ...]]:
    """One row of text per target (all packaged ones by default), under HEADER."""
    return [_row(target) for target in (map(load, names()) if targets is None else targets)]


def _row(target: TargetFile) -> tuple[str, ...]:
    core, device, chip = target["core"], target["device"], target["chip"]
    cores = f"{chip['num_devices']} x {device['num_cores']} core" + ("s" if device["num_cores"] > 1 else "")
    hbm = f"{device['hbm_bytes'] / 2**30:g} GiB, {device['hbm_bytes_per_second'] / 1e9:g} GB/s"
    peak = f"{device['peak_bf16_flops_per_second'] / 1e12:g} TF bf16"
    instances = []
    for instance in target["instances"]:
        price = f", ${instance['usd_per_hour']:g}/h" if instance["usd_per_hour"] else ""
        chips = "1 chip" if instance["num_chips"] == 1 else f"{instance['num_chips']} chips"
        instances.append(f"{instance['name']} ({chips}{price})")
    return target["name"], core["generation"], cores, hbm, peak, ", ".join(instances)


def _locate(name_or_path: str | os.PathLike[str], folder: str) -> str:
    """The file of a packaged name, or of a path that may be relative to `folder`."""
    text = os.fspath(name_or_path)
    if text.endswith(".toml") or os.sep in text or not isinstance(name_or_path, str):
        path = os.path.normpath(os.path.join(folder, os.path.expanduser(text)))
        if not os.path.isfile(path):
            raise TargetError(f"[target] {text}: must be an existing file; got none at {path}. Correct the path.")
        return path
    known = names()
    if text not in known:
        raise TargetError(
            f"[target] must be a packaged target ({', '.join(known)}) or the path of a .toml file; got {text!r}. "
            + (suggest(text, known) if text else "Name one.")
        )
    return os.path.join(_FOLDER, text + ".toml")


def _read(path: str) -> TargetFile:
    from .identities import check

    raw, files = _raw(path, ())
    reader = Reader(path)
    reader.known("", raw, ["base", "name", "core", "device", "chip", "collectives", "instance", "documented"])
    if "name" not in raw:
        reader.fail("name", "must be given", "no such field", 'Add name = "..." at the top of the file.')
    chip = reader.table("chip", raw.get("chip"), "chip", ("link",))
    values = {
        "name": reader.value("name", FIELDS["chip"]["name"], raw["name"]),
        "core": reader.table("core", raw.get("core"), "core"),
        "device": reader.table("device", raw.get("device"), "device"),
        "chip": chip | {"links": _links(reader, "chip", raw["chip"])},
        "collectives": reader.table("collectives", raw.get("collectives"), "collectives"),
        "instances": [],
    }
    for i, element in enumerate(reader.tables("instance", raw.get("instance", []))):
        instance = reader.table(f"instance[{i}]", element, "instance", ("link",))
        values["instances"].append(instance | {"links": _links(reader, f"instance[{i}]", element)})
    documented = reader.table("documented", raw.get("documented"), "documented")
    check(reader, values, documented)

    target = TargetFile({key: _freeze(value) for key, value in values.items()})
    target.path = path
    target.sources = MappingProxyType(reader.sources)
    target.documented = MappingProxyType(documented)
    target._files = files
    return target


def _links(reader: Reader, path: str, raw: dict[str, Any]) -> list[dict[str, Any]]:
    path += ".link"
    elements = reader.tables(path, raw.get("link", []))
    links = [reader.table(f"{path}[{i}]", element, "link") for i, element in enumerate(elements)]
    for i, link in enumerate(links):
        if link["num_chips"] == 0 and link["topology"] != "network":
            rule = "must be a positive whole number where the topology is not network"
            reader.fail(f"{path}[{i}].num_chips", rule, "0", f"Write how many chips one {link['topology']} joins.")
    return links


def _raw(path: str, chain: tuple[str, ...]) -> tuple[dict[str, Any], tuple[tuple[str, int], ...]]:
    """The file's tables, laid over those of its `base`, and the files that were read."""
    import tomllib  # 10 ms, and only a load needs it

    reader = Reader(path)
    stamp = ((path, _mtime(path)),)
    try:
        with open(path, "rb") as file:
            own = tomllib.load(file)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TargetError(f"[target] {path}: must be a readable TOML file; got: {error}. Correct the file.") from None
    if "base" not in own:
        return own, stamp
    base = own["base"]
    if not isinstance(base, str):
        reader.fail("base", "must be a packaged target or a path", repr(base), 'Write base = "trn2".')
    base_path = _locate(base, os.path.dirname(path))
    if base_path in (path, *chain):
        reader.fail("base", "must not lead back to the file itself", repr(base), "Name another base.")
    below, stamps = _raw(base_path, (path, *chain))
    below.pop("name", None)  # a changed chip is another chip
    return _overlay(below, own), stamp + stamps


def _overlay(below: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`own` over `below`: tables field by field, arrays of tables by name; a figure is replaced with its source."""
    merged = dict(below)
    for key, value in own.items():
        under = below.get(key)
        if isinstance(value, dict) and isinstance(under, dict) and "value" not in under:
            merged[key] = _overlay(under, value)
        elif isinstance(value, list) and isinstance(under, list):
            merged[key] = _overlay_named(under, value)
        else:
            merged[key] = value
    return merged


def _overlay_named(below: list[Any], own: list[Any]) -> list[Any]:
    merged = list(below)
    places = {element.get("name"): i for i, element in enumerate(below) if isinstance(element, dict)}
    for element in own:
        name = element.get("name") if isinstance(element, dict) else None
        if isinstance(name, str) and name in places:
            i = places.pop(name)  # a second one of that name in `own` stays a duplicate
            merged[i] = _overlay(merged[i], element)
        else:
            merged.append(element)
    return merged


def _freeze(value: Any) -> Any:
    if isinstance(value, dict):
        return _Frozen({key: _freeze(item) for key, item in value.items()})
    return tuple(map(_freeze, value)) if isinstance(value, list) else value


def _thaw(value: Any) -> Any:
    if isinstance(value, _Frozen):
        return value.to_dict()
    return [_thaw(item) for item in value] if isinstance(value, tuple) else value


def _mtime(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return -1
