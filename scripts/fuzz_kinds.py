"""The kinds of inputs that are generated, each with what reads it."""

from __future__ import annotations

import argparse
import io
import json
import struct
import tomllib
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import fuzz_bed
import pyarrow
import pyarrow.parquet
from fuzz_bed import NAME, Bed, Input
from fuzz_mutations import ODD_TEXTS, harmed_bytes, harmed_table, harmed_text, keys_in, odd_value, to_toml

from autoprune import api, architectures
from autoprune.cli.main import build_parser
from autoprune.engine.files import PhaseStore, load_given
from autoprune.engine.images.sources import source_of

__all__ = ["KINDS", "SHARES"]

_STUDIES = Path(__file__).parents[1] / "studies"
_TABLES = [tomllib.loads(path.read_text()) for path in sorted(_STUDIES.rglob("*.toml"))]
_KEYS = tuple(sorted(set().union(*map(keys_in, _TABLES))))


def study_file(rng: Random, bed: Bed) -> Input:
    """A study file of this repository with harm to its tables or its text."""
    tables = rng.choice(_TABLES)
    text = _harmed_toml(rng, tables)
    path = bed.folder / "input.toml"
    return Input(("launch", "input.toml", "--dry-run"), {"input.toml": text}, lambda: api.load_study(path))


def tried_study_file(rng: Random, bed: Bed) -> Input:
    """The bed's own study file, harmed, with all that a launch looks at before it starts."""
    text = _harmed_toml(rng, tomllib.loads(bed.study()))
    return Input(("launch", "input.toml", "--dry-run"), {"input.toml": text})


def space_file(rng: Random, bed: Bed) -> Input:
    """A space in a file of its own."""
    tables = rng.choice(
        [table for table in _TABLES if "space" in table] + [tomllib.loads((bed.folder / "space.toml").read_text())]
    )
    tables = {key: tables[key] for key in ("space", "method") if key in tables}
    study = bed.study(space="", **{"method.slimming": ""}, study=f'name = "{NAME}"\nspace = "input_space.toml"')
    files = {"input_space.toml": _harmed_toml(rng, tables), "input.toml": study.encode()}
    path = bed.folder / "input.toml"
    return Input(("launch", "input.toml", "--dry-run"), files, lambda: api.load_study(path))


def _harmed_toml(rng: Random, tables: dict[str, Any]) -> bytes:
    if rng.random() < 0.25:
        return harmed_text(rng, to_toml(tables))
    harmed = harmed_table(rng, tables, keys=_KEYS)
    return to_toml(harmed if isinstance(harmed, dict) else {"study": harmed}).encode(errors="replace")


# Command lines

_LASTING = ("launch", "resume", "stop", "evaluate", "dashboard", "clean", "doctor", "init")
"""Commands that work for long or are meant to change something: they get a study or file that is not there."""


def command_line(rng: Random, bed: Bed) -> Input:
    """A command with some of its flags and likely values, then harm to the line."""
    commands = _commands()
    name = rng.choice(sorted(commands))
    line = [name]
    for action in commands[name]:
        is_flag = bool(action.option_strings)
        if is_flag and rng.random() > 0.3:
            continue
        line += [rng.choice(action.option_strings)] if is_flag else []
        if action.nargs != 0:
            line.append(_argument(rng, name, str(action.metavar)))
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        place = rng.randrange(1, len(line) + 1)
        match rng.randrange(4):
            case 0:
                line[place:place] = [_text(rng)]
            case 1:
                del line[place : place + 1]
            case 2:
                line[place:place] = [rng.choice(line)] if rng.random() < 0.5 else [_flag(rng, commands)]
            case _:
                line[place - 1] = _text(rng) if rng.random() < 0.7 else line[place - 1][:-1]
    if name in _LASTING:  # Whatever the harm was.
        line = [f"no_{each}" if each in (NAME, "study.toml") else each for each in line]
    return Input(tuple(line))


def _commands() -> Mapping[str, list[argparse.Action]]:
    parsers = next(a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return {
        name: [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
        for name, parser in dict(parsers.choices or {}).items()
    }


def _flag(rng: Random, commands: Mapping[str, list[argparse.Action]]) -> str:
    return rng.choice([flag for actions in commands.values() for action in actions for flag in action.option_strings])


def _text(rng: Random) -> str:
    # An argument can hold no NUL, but bytes that are no text.
    return (rng.choice(ODD_TEXTS).replace("\x00", "") + rng.choice(("", "", "", "\udcff"))) or "-"


def _argument(rng: Random, command: str, metavar: str) -> str:
    if rng.random() < 0.2:
        return _text(rng)
    likely: Mapping[str, tuple[str, ...]] = {
        "NAME": (NAME,), "OTHER": (NAME, "tine"), "A": (NAME,), "B": (NAME, "tiny2"),
        "TRIAL": ("0", "1", "3", "4", "99", "1" * 18), "STUDY.toml": ("study.toml", "space.toml", "gone.toml", "."),
        "N": ("1", "8", "0", "1000000"), "K": ("1", "3"), "T": ("1s", "2m", "1h30m"), "L": ("none", "tensorboard"),
        "ADDR": ("auto", "127.0.0.1:1"), "F": ("table", "csv", "json", "parquet", ".py"),
        "EXPR": ("macs_ratio <= 0.5", "accuracy > 0 and method == 'magnitude'"),
        "COLUMN": ("accuracy", "macs_ratio", "number", "method"), "GAP": ("0.1", "0", "1"),
        "PATH": ("digits", "images", "train.parquet"), "WHAT": ("methods", "studies", "spaces", "architectures"),
        "NET": ("resnet20", "resnet_digits", "torchvision/resnet18"), "TASK": ("no:task",), "P": ("0", "8080"),
        "D": ("cpu", "cuda"),
        "URL": (
            "sqlite:///autoprune.db", "sqlite:///gone.db", "sqlite:///study.toml",
            "postgresql://u:secret@127.0.0.1:1/x",
        ),
    }  # fmt: skip
    if metavar == "FILE":
        ending = {"report": (".html",), "pareto": (".csv", ".json", ".parquet", ".png", ".svg")}.get(
            command, (".py", ".safetensors", ".md")
        )
        return f"input{rng.choice(ending)}"
    return rng.choice(likely[metavar])


# Conditions


def condition(rng: Random, bed: Bed) -> Input:
    """A condition on the columns of trials, mostly well formed."""
    where = _condition(rng, depth=rng.choice((0, 1, 2, 4)))
    if rng.random() < 0.5:
        where = harmed_text(rng, where).decode(errors="replace").replace("\x00", "")
    study = api.open_study(NAME, bed.url)
    return Input(("pareto", NAME, f"--where={where}"), read=lambda: study.front(where=where))


def _condition(rng: Random, *, depth: int) -> str:
    if depth == 0:
        likely = rng.random() < 0.6
        sides = [rng.choice(_LIKELY if likely else _SIDES) for _ in range(rng.choice((2, 2, 2, 3)))]
        text = sides[0]
        for side in sides[1:]:
            text += f" {rng.choice(_COMPARISONS[:8] if likely else _COMPARISONS)} {side}"
        return text
    parts = [_condition(rng, depth=depth - 1) for _ in range(2)]
    return rng.choice(("({} and {})", "({} or {})", "not {0}", "not (not {0} or {1})", "{} & {}")).format(*parts)


_COMPARISONS = ("==", "!=", "<", "<=", ">", ">=", "<", ">", "in", "is", "not in", "=", ":=", "<>")
_LIKELY = ("accuracy", "macs_ratio", "number", "`macs`", "0.5", "0", "1e-3", "12", "-1")
_SIDES = (
    "accuracy", "macs_ratio", "number", "method", "state", "widths", "`widths`", "weights", "rungs", "point",
    "hyper.strength", "`no such`", "0", "0.5", "-1", "1e400", "10**9", "9" * 5000, "0x10", "1j", "None", "True",
    "'magnitude'", '"x"', "b'x'", "f'{1}'", "...", "accuracy + 1", "accuracy.real", "__import__('os')",
    "accuracy.__class__", "(lambda: 0)()", "[1, 2]", "{}", "@x", "'\\ud800'",
    "__column_0__", "datetime_start", "wall_s", "sha256", "-'a'", "- -1",
)  # fmt: skip


# Networks and phases on disk


def record(rng: Random, bed: Bed) -> Input:
    """The JSON record beside a trial's network, harmed; its hash is the right one more often than not."""
    path = rng.choice(bed.networks)
    text = _harmed_json(rng, fuzz_bed.record_of(path))
    place = str(path.with_suffix(".json").relative_to(bed.folder))
    export = ("export", NAME, str(int(path.stem)), "--to", "input.py")
    return Input(export, {place: text}, lambda: api.load_model(path))


def phase_record(rng: Random, bed: Bed) -> Input:
    """The same beside a cached phase; one that is not whole counts as absent."""
    path = rng.choice(bed.phases)
    kind, _, key = path.stem.partition("-")
    files = {str(path.with_suffix(".json").relative_to(bed.folder)): _harmed_json(rng, fuzz_bed.record_of(path))}
    store = PhaseStore(path.parent)

    def read() -> None:
        if (found := store.find(kind, key)) is not None:
            _ = found.weights, found.state, found.file

    return Input(("status", NAME), files, read)


def _harmed_json(rng: Random, table: dict[str, Any]) -> bytes:
    if rng.random() < 0.25:
        return harmed_text(rng, json.dumps(table))
    sha256 = table["sha256"]
    harmed = harmed_table(rng, table, keys=tuple(table))
    if isinstance(harmed, dict) and rng.random() < 0.9:
        harmed["sha256"] = sha256
    return json.dumps(harmed).encode(errors="replace")


def weights(rng: Random, bed: Bed) -> Input:
    """A file of weights: harm to a safetensors header, to the pickle in an archive, or to bytes anywhere."""
    path = rng.choice(bed.weights if rng.random() < 0.4 else [bed.folder / "weights" / "dense.safetensors"])
    data = path.read_bytes()
    if path.suffix == ".safetensors" and rng.random() < 0.8:
        data = _harmed_header(rng, data)
    elif zipfile.is_zipfile(path) and rng.random() < 0.7:
        data = _harmed_archive(rng, data)
    else:
        data = harmed_bytes(rng, data)
    place = f"input{path.suffix}"
    study = bed.study(network=f'architecture = "resnet_digits"\nweights = "{place}"')
    network = architectures.build("resnet_digits", n_classes=10, in_channels=1)
    files = {place: data, "input.toml": study.encode()}
    return Input(("inspect", "input.toml"), files, lambda: load_given(network, bed.folder / place))


def _harmed_header(rng: Random, data: bytes) -> bytes:
    (length,) = struct.unpack("<Q", data[:8])
    header, content = json.loads(data[8 : 8 + length]), data[8 + length :]
    if rng.random() < 0.15:
        text = harmed_text(rng, json.dumps(header))
    else:
        names = tuple(header)
        for _ in range(rng.choice((1, 2))):
            entry, odd = (
                header[rng.choice(names)],
                rng.choice((0, 1, -1, 2**31, 2**53, 2**63, 2**64 - 1, 0.5, "a", None, [])),
            )
            match rng.randrange(5):
                case 0:
                    entry["dtype"] = rng.choice(
                        ("F16", "BF16", "F64", "I64", "BOOL", "F8_E4M3", "U64", "C64", "X", "", 3)
                    )
                case 1:
                    entry["shape"] = rng.choice(([], [odd], [odd, odd], entry["shape"][::-1], [0, 2**40], [1] * 100))
                case 2:
                    entry["data_offsets"] = rng.choice(([odd, odd], [0, odd], [odd], entry["data_offsets"][::-1]))
                case 3:
                    header = harmed_table(rng, header, keys=names)
                    break
                case _:
                    header[rng.choice(ODD_TEXTS)] = dict(entry)
        text = json.dumps(header).encode(errors="replace")
    told = len(text) if rng.random() < 0.9 else rng.choice((0, 1, len(text) * 2, 2**32, 2**63, 2**64 - 1))
    return struct.pack("<Q", told) + text + content


def _harmed_archive(rng: Random, data: bytes) -> bytes:
    """An archive of PyTorch with harm to one of its members."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(written, "w") as new:
        names = old.namelist()
        chosen = rng.choice([name for name in names if name.endswith("data.pkl")] * len(names) + names)
        for name in names:
            content = old.read(name)
            new.writestr(name, harmed_bytes(rng, content) if name == chosen else content)
    return written.getvalue()


# Data


def parquet(rng: Random, bed: Bed) -> Input:
    """A Parquet file with harm to its bytes, to its columns or to the images in it."""
    data = (bed.folder / "train.parquet").read_bytes()
    if rng.random() < 0.5:
        data = harmed_bytes(rng, data[-2000:] if rng.random() < 0.1 else data)
        if rng.random() < 0.3:  # The footer is where a file says what is in it.
            data = data[:-600] + harmed_bytes(rng, data[-600:])
    elif rng.random() < 0.03:
        data = _many_rows(rng.choice((10**5, 2 * 10**6)))
    else:
        data = _odd_table(rng, pyarrow.parquet.read_table(io.BytesIO(data)).to_pydict())
    return _data_input(bed, 'source = "parquet"\ntrain = "input.parquet"', {"input.parquet": data})


def _odd_table(rng: Random, columns: dict[str, list[Any]]) -> bytes:
    for _ in range(rng.choice((1, 2))):
        rows = max(1, *map(len, columns.values()))
        columns |= {name: columns.get(name) or [None] * rows for name in ("img", "label")}
        name = rng.choice(("img", "label"))
        match rng.randrange(5):
            case 0:
                columns[name] = [odd_value(rng)] * rows
            case 1:
                columns[name][rng.randrange(rows)] = odd_value(rng)
            case 2:
                columns["img"] = [image["bytes"] if isinstance(image, dict) else image for image in columns["img"]]
            case 3:
                place = rng.randrange(rows)
                columns["img"][place] = {"bytes": harmed_bytes(rng, fuzz_bed.encoded(rng, "PNG")), "path": None}
            case _:
                columns = {rng.choice(("img", "image", "", "label")): values for values in columns.values()}
                columns = {"img": [], "label": []} if len(columns) < 2 else columns
    file = io.BytesIO()
    try:
        pyarrow.parquet.write_table(pyarrow.table(columns), file)
    except (pyarrow.ArrowException, OverflowError, TypeError):  # No file can hold that.
        pyarrow.parquet.write_table(pyarrow.table({"img": [None], "label": [0]}), file)
    return file.getvalue()


def _many_rows(n: int) -> bytes:
    """A file of a few kilobytes that holds so many rows."""
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"img": pyarrow.nulls(n, pyarrow.binary()), "label": [0] * n}), file)
    return file.getvalue()


def image(rng: Random, bed: Bed) -> Input:
    """A folder of images of which one is harmed."""
    path = rng.choice(bed.images)
    data = path.read_bytes()
    if path.stem == "PNG" and rng.random() < 0.5:
        data = _sized_png(rng, data)
    elif rng.random() < 0.02:
        data = _vast_png(
            *rng.choice(((7000, 7000), (9500, 9500), (13_000, 13_000), (1, 60_000), (60_000, 1), (2, 10**6)))
        )
    place = f"input_images/a/input{path.suffix}"
    whole = (bed.folder / "images" / "a" / next(p.name for p in bed.images if p.stem == "PNG")).read_bytes()
    files = {
        place: data if len(data) > 10_000 or rng.random() < 0.1 else harmed_bytes(rng, data),
        "input_images/b/whole.png": whole,
    }
    return _data_input(bed, 'source = "image_folder"\ntrain = "input_images"\nimage_size = 8', files)


def _sized_png(rng: Random, data: bytes) -> bytes:
    """A PNG that says to be of another size."""
    width, height = (rng.choice((0, 1, 8, 5000, 13_000, 30_000, 2**31 - 1)) for _ in range(2))
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def _vast_png(width: int, height: int) -> bytes:
    """A PNG of so many pixels, all black, in few bytes."""
    packed = zlib.compressobj(1)
    rows = b"".join([*(packed.compress(bytes(1 + 3 * width)) for _ in range(height)), packed.flush()])

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _data_input(bed: Bed, table: str, files: dict[str, bytes]) -> Input:
    study = bed.study(data=f"{table}\n")
    files = {**files, "input.toml": study.encode()}

    def read() -> None:
        spec = api._planning.load_setting(bed.folder / "input.toml").data
        assert spec is not None
        source_of(spec).fingerprint(spec, "train")
        source_of(spec).read(spec, "train")

    return Input(("inspect", "input.toml"), files, read)


Make = Callable[[Random, Bed], Input]
KINDS: Mapping[str, Make] = {
    "study files": study_file,
    "study files, tried": tried_study_file,
    "space files": space_file,
    "command lines": command_line,
    "conditions (--where)": condition,
    "records of networks": record,
    "records of phases": phase_record,
    "weights": weights,
    "Parquet files": parquet,
    "images": image,
}
SHARES: Mapping[str, float] = {
    "study files": 0.22,
    "study files, tried": 0.01,
    "space files": 0.15,
    "command lines": 0.06,
    "conditions (--where)": 0.15,
    "records of networks": 0.06,
    "records of phases": 0.08,
    "weights": 0.12,
    "Parquet files": 0.08,
    "images": 0.07,
}
"""The share of each kind in all inputs."""
