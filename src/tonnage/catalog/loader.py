"""The packaged catalog and the user's files on top of it -> the nouns, looked up by name.

Nothing is read before it is asked for: a command that needs one GPU parses no model. A user's row
replaces the packaged row of that name; a user's prices for a part replace the packaged prices of
the same kind.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from tonnage.catalog import profiles
from tonnage.catalog.rows import (
    TABLES,
    Document,
    Row,
    did_you_mean,
    folded,
    overlay_document,
    packaged_document,
)
from tonnage.dtypes import DTYPES
from tonnage.engine import Calibration, EngineProfile
from tonnage.errors import InputError, InputErrors, TonnageError
from tonnage.hardware import GpuSpec, Interconnect, Price, ServerSpec, StorageSpec
from tonnage.model import ModelSpec

PriceKind = Literal["rent_usd_per_gpu_hour", "purchase_usd"]
PRICE_KINDS: tuple[PriceKind, ...] = ("rent_usd_per_gpu_hour", "purchase_usd")
MATH_DTYPES = frozenset(dtype.math for dtype in DTYPES.values())

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Catalog:
    """What is known of hardware and models. Build it with `Catalog.load`.

    Names are compared without case, spaces, hyphens and underscores; aliases count as names.
    """

    overlays: tuple[Document, ...] = ()

    @classmethod
    def load(cls, overlays: Sequence[Path] = ()) -> Catalog:
        """The packaged catalog with the files `overlays` on top, later files over earlier ones.

        Raises InputError (InputErrors for several) for what is wrong in an overlay.
        """
        catalog = cls(overlays=tuple(overlay_document(path) for path in overlays))
        errors = [
            error
            for document in catalog.overlays
            for table in TABLES
            for _, error in faults(catalog, document, table)
        ]
        if len(errors) > 1:
            raise InputErrors(errors)
        if errors:
            raise errors[0]
        return catalog

    # ---- look-ups

    @cached_property
    def gpus(self) -> Mapping[str, GpuSpec]:
        """Every accelerator by its name."""
        return {name: self._gpu(name, row) for name, row in self.rows("gpus").items()}

    @cached_property
    def servers(self) -> Mapping[str, ServerSpec]:
        """Every server by its name."""
        return {name: self._server(name, row) for name, row in self.rows("servers").items()}

    @cached_property
    def storage_profiles(self) -> Mapping[str, StorageSpec]:
        """Every storage profile by its name."""
        return {name: storage_from_row(name, row) for name, row in self.rows("storage").items()}

    @property
    def model_names(self) -> tuple[str, ...]:
        """The name of every model, without building any."""
        return tuple(self.rows("models"))

    def gpu(self, name: str) -> GpuSpec:
        """The accelerator called `name`. Raises TonnageError with the nearest names."""
        return self.gpus[self._find("gpus", name, "GPU")]

    def server(self, name: str) -> ServerSpec:
        """The server called `name`. Raises TonnageError with the nearest names."""
        return self.servers[self._find("servers", name, "server")]

    def storage(self, name: str) -> StorageSpec:
        """The storage profile called `name`. Raises TonnageError with the nearest names."""
        return self.storage_profiles[self._find("storage", name, "storage profile")]

    def default_server(self, gpu_name: str) -> ServerSpec | None:
        """The server taken when only the GPU is named; None when the catalog has none for it."""
        name = self._default_servers.get(self._find("gpus", gpu_name, "GPU"))
        return None if name is None else self.servers[name]

    def model(self, name: str) -> ModelSpec:
        """The model called `name`: a catalog name, a config.json, its folder, or a hub id.

        Raises TonnageError with the nearest catalog names when it is none of these.
        """
        known = self.index("models").get(folded(name))
        if known is not None:
            if known not in self._models:
                self._models[known] = model_from_row(known, self.rows("models")[known])
            return _as_called(self._models[known], name)
        from tonnage.catalog.huggingface import fetch_config, read_config  # noqa: PLC0415 (cold start)

        path = Path(name).expanduser()
        if path.exists() or name.endswith(".json") or name.startswith(("~", ".", os.sep)):
            return read_config(path)
        missing = self._unknown("models", name, "model")
        if not _HUB_ID.fullmatch(name):
            raise missing
        try:
            return read_config(fetch_config(name), name=name)
        except TonnageError as error:
            raise TonnageError(
                f"{missing.message} {error.message}", hint=f"{missing.hint} {error.hint}".strip()
            ) from error

    def engine(self, name: str) -> EngineProfile:
        """The serving engine called `name`. Raises TonnageError with the known ones."""
        return profiles.engine(name)

    def calibration(self, gpu: GpuSpec) -> Calibration:
        """The default efficiencies of `gpu`, by its architecture class."""
        return profiles.calibration(gpu)

    # ---- rows, for whoever lists or judges the catalog

    def documents(self, table: str) -> tuple[Document, ...]:
        """The packaged file of `table`, then the overlays."""
        return (packaged_document(table), *self.overlays)

    def rows(self, table: str) -> Mapping[str, Row]:
        """The rows of `table` by name, each from the last file that has it."""
        if table not in self._rows:
            merged: dict[str, Row] = {}
            written: dict[str, str] = {}
            for document in self.documents(table):
                for row in document.rows(table):
                    merged[written.setdefault(folded(row.name), row.name)] = row
            self._rows[table] = merged
        return self._rows[table]

    def index(self, table: str) -> Mapping[str, str]:
        """Folded name or alias -> name; names go before aliases, later files before earlier ones.

        A model is also found without its maker, when only one has that name.
        """
        if table not in self._indexes:
            index: dict[str, str] = {}
            if table == "models":
                index.update(_without_maker(self.rows(table)))
            for document in self.documents(table):
                for name, row in self.rows(table).items():
                    if row.document is document:
                        index.update((folded(alias), name) for alias in row.names("aliases"))
            index.update((folded(name), name) for name in self.rows(table))
            self._indexes[table] = index
        return self._indexes[table]

    # ---- inside

    @cached_property
    def _rows(self) -> dict[str, Mapping[str, Row]]:
        return {}

    @cached_property
    def _indexes(self) -> dict[str, Mapping[str, str]]:
        return {}

    @cached_property
    def _models(self) -> dict[str, ModelSpec]:
        return {}

    def _find(self, table: str, name: str, noun: str) -> str:
        found = self.index(table).get(folded(name))
        if found is None:
            raise self._unknown(table, name, noun)
        return found

    def _unknown(self, table: str, name: str, noun: str) -> TonnageError:
        nearest = did_you_mean(name, self.index(table))
        listing = f"`tonnage catalog list {table}` lists them all."
        return TonnageError(
            f'The catalog has no {noun} "{name}".', hint=f"{nearest} {listing}".strip()
        )

    def _gpu(self, name: str, row: Row) -> GpuSpec:
        return gpu_from_row(
            name,
            row,
            rents=self._prices.get(("gpu", name, "rent_usd_per_gpu_hour"), ()),
            purchases=self._prices.get(("gpu", name, "purchase_usd"), ()),
        )

    def _server(self, name: str, row: Row) -> ServerSpec:
        return server_from_row(
            name,
            row,
            gpu_index=self.index("gpus"),
            purchases=self._prices.get(("server", name, "purchase_usd"), ()),
        )

    @cached_property
    def _prices(self) -> Mapping[tuple[str, str, PriceKind], tuple[Price, ...]]:
        """Prices by what they are for ("gpu" or "server", its name) and kind, the default first."""
        prices: dict[tuple[str, str, PriceKind], tuple[Price, ...]] = {}
        for document in self.documents("prices"):
            of_file: dict[tuple[str, str, PriceKind], list[Row]] = {}
            for row in document.rows("prices"):
                of_file.setdefault(priced(row, self.index), []).append(row)
            for subject, rows in of_file.items():
                only = not document.packaged and len(rows) == 1
                found = [price_from_row(row, subject[2], default=only) for row in rows]
                prices[subject] = tuple(sorted(found, key=lambda price: not price.default))
        return prices

    @cached_property
    def _default_servers(self) -> Mapping[str, str]:
        defaults: dict[str, str] = {}
        for document in self.documents("servers"):
            for name, server in self.servers.items():
                if server.default_for_gpu and self.rows("servers")[name].document is document:
                    defaults[server.gpu] = name
        return defaults


def _as_called(model: ModelSpec, name: str) -> ModelSpec:
    """The model under the hub id that was asked for; shorthands keep the catalog's name."""
    for alias in model.aliases:
        if "/" in alias and folded(alias) == folded(name):
            return replace(model, name=alias)
    return model


def user_catalog_paths(environ: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """The user's catalog files: `~/.config/tonnage/catalog/*.toml`, then TONNAGE_CATALOG.

    TONNAGE_CATALOG lists files and folders as PATH does. Raises InputError for one that is not
    there. For doors, which pass the result to `Catalog.load`.
    """
    home = environ.get("HOME")
    configured = environ.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else "")
    paths: list[Path] = []
    if configured:
        paths += sorted(Path(configured, "tonnage", "catalog").glob("*.toml"))
    for entry in filter(None, environ.get("TONNAGE_CATALOG", "").split(os.pathsep)):
        path = Path(entry).expanduser()
        if not path.exists():
            hint = "Mend or unset the environment variable TONNAGE_CATALOG."
            raise InputError("does not exist.", hint=hint, file=entry, key="TONNAGE_CATALOG")
        paths += sorted(path.glob("*.toml")) if path.is_dir() else [path]
    return tuple(paths)


# ---- one row -> one noun; each raises InputError for a value that is wrong


def gpu_from_row(
    name: str, row: Row, *, rents: tuple[Price, ...] = (), purchases: tuple[Price, ...] = ()
) -> GpuSpec:
    """The accelerator a row of [gpus] describes."""
    row.refuse_unknown_keys()
    return GpuSpec(
        name=name,
        title=row.text("title", name),
        vendor=row.text("vendor"),
        architecture=row.text("architecture"),
        memory_bytes=row.si("memory_gb"),
        usable_memory_bytes=row.si_if_known("usable_memory_mib"),
        hbm_bytes_per_s=row.si("hbm_gb_per_s"),
        dense_flop_per_s={
            dtype: tflops * 1e12
            for dtype, tflops in row.numbers("dense_tflops", MATH_DTYPES, required="bf16").items()
        },
        interconnect=Interconnect(
            kind=row.text("link"),
            bytes_per_s=row.si("link_gb_per_s"),
            switched=row.flag("link_switched"),
        ),
        board=row.flag("board"),
        power_watts=row.si_if_known("power_w"),
        release_year=row.count("release_year") if "release_year" in row.values else None,
        host_bytes_per_s=row.si_if_known("host_gb_per_s"),
        nic_bytes_per_s=row.si_if_known("nic_gb_per_s"),
        rent_usd_per_hour=rents,
        purchase_usd=purchases,
        aliases=row.names("aliases"),
        source=_source(row),
        date=row.text("date", ""),
        notes=row.text("notes", ""),
    )


def server_from_row(
    name: str, row: Row, *, gpu_index: Mapping[str, str], purchases: tuple[Price, ...] = ()
) -> ServerSpec:
    """The server a row of [servers] describes; `gpu_index` maps folded GPU names to names."""
    row.refuse_unknown_keys()
    gpus, domain = row.count("gpus"), row.count("nvlink_domain_gpus")
    if domain < gpus and gpus % domain:
        raise row.error(
            f"is {domain}, which does not divide gpus = {gpus}.",
            key="nvlink_domain_gpus",
            hint="Write 1 for cards on a host bus, 2 for bridged pairs, else how many share links.",
        )
    return ServerSpec(
        name=name,
        title=row.text("title", name),
        vendor=row.text("vendor"),
        gpu=_named(row, "gpu", gpu_index, "GPU", "gpus"),
        gpus=gpus,
        nvlink_domain_gpus=domain,
        rack_units=row.si_if_known("rack_units"),
        power_watts=row.si_if_known("power_kw"),
        host_memory_bytes=row.si_if_known("host_memory_gb"),
        local_storage_bytes=row.si_if_known("local_storage_tb"),
        purchase_usd=purchases,
        default_for_gpu=row.flag("default_for_gpu", default=False),
        aliases=row.names("aliases"),
        source=_source(row),
        date=row.text("date", ""),
        notes=row.text("notes", ""),
    )


def storage_from_row(name: str, row: Row) -> StorageSpec:
    """The storage profile a row of [storage] describes."""
    row.refuse_unknown_keys()
    return StorageSpec(
        name=name,
        kind=row.text("kind"),
        capacity_bytes=row.si("capacity_tb"),
        usable_bytes=row.si("usable_tb"),
        read_bytes_per_s=row.si("read_mb_per_s"),
        write_bytes_per_s=row.si("write_mb_per_s"),
        read_iops=row.si("read_iops"),
        write_iops=row.si("write_iops"),
        read_block_bytes=row.si("read_block_kib"),
        write_block_bytes=row.si("write_block_kib"),
        read_latency_p50_s=row.si("read_latency_p50_ms"),
        read_latency_p99_s=row.si("read_latency_p99_ms"),
        write_latency_p50_s=row.si("write_latency_p50_ms"),
        write_latency_p99_s=row.si("write_latency_p99_ms"),
        rack_units=row.si("rack_units", zero=True),
        power_watts=row.si("power_kw", zero=True),
        aliases=row.names("aliases"),
        source=_source(row),
        date=row.text("date", ""),
        notes=row.text("notes", ""),
    )


def model_from_row(name: str, row: Row) -> ModelSpec:
    """The model a row of [models] describes, through the reader of config.json."""
    from tonnage.catalog.huggingface import spec_from_config  # noqa: PLC0415 (cold start)

    row.refuse_unknown_keys()
    config = row.values.get("config")
    if not isinstance(config, dict):
        hint = "Copy the keys of the model's config.json into it."
        raise row.error(f'has no table config in "{name}".', key="config", hint=hint)
    try:
        return spec_from_config(
            config,
            name=name,
            source=_source(row),
            published_parameters=row.si_if_known("published_parameters"),
            aliases=row.names("aliases"),
            notes=row.text("notes", ""),
        )
    except TonnageError as error:
        key = error.key if isinstance(error, InputError) else None
        message = f"{key}: {error.message}" if key else error.message
        raise row.error(message, key="config", hint=error.hint) from error


def price_from_row(row: Row, kind: PriceKind, *, default: bool = False) -> Price:
    """The price a row of [[prices]] states; `default` holds when the row does not say."""
    low_usd, high_usd = row.range_usd(kind)
    return Price(
        low_usd=low_usd,
        high_usd=high_usd,
        kind=row.text("kind", "own price"),
        source=_source(row),
        date=row.text("date", ""),
        default=row.flag("default", default=default),
    )


def priced(row: Row, index: Callable[[str], Mapping[str, str]]) -> tuple[str, str, PriceKind]:
    """What a row of [[prices]] is for: ("gpu" or "server", its name, the kind of price)."""
    row.refuse_unknown_keys()
    subjects = [key for key in ("gpu", "server") if key in row.values]
    kinds: list[PriceKind] = [kind for kind in PRICE_KINDS if kind in row.values]
    if len(subjects) != 1:
        hint = 'Write gpu = "…" or server = "…", one of them.'
        raise row.error("does not say what is priced.", key="gpu", hint=hint)
    if len(kinds) != 1:
        hint = "Write rent_usd_per_gpu_hour = [low, high] or purchase_usd = [low, high]."
        raise row.error(
            "needs one price, of one kind.", key=kinds[-1] if kinds else None, hint=hint
        )
    if subjects == ["server"]:
        if kinds != ["purchase_usd"]:
            hint = "Rents are per GPU: name the gpu."
            raise row.error("is not a price of a server.", key=kinds[0], hint=hint)
        return "server", _named(row, "server", index("servers"), "server", "servers"), kinds[0]
    return "gpu", _named(row, "gpu", index("gpus"), "GPU", "gpus"), kinds[0]


def faults(
    catalog: Catalog, document: Document, table: str
) -> Iterator[tuple[Row | None, InputError]]:
    """Each row of `table` in `document` that cannot be read, with its error; None for the table."""
    try:
        rows = list(document.rows(table))
    except InputError as error:
        yield None, error
        return
    for row in rows:
        try:
            _read(catalog, row)
        except InputError as error:
            yield row, error


def _read(catalog: Catalog, row: Row) -> None:
    """Read `row` as what its table holds, to see whether it can be."""
    if row.table == "gpus":
        gpu_from_row(row.name, row)
    elif row.table == "servers":
        server_from_row(row.name, row, gpu_index=catalog.index("gpus"))
    elif row.table == "storage":
        storage_from_row(row.name, row)
    elif row.table == "models":
        model_from_row(row.name, row)
    else:
        price_from_row(row, priced(row, catalog.index)[2])


def _named(row: Row, key: str, index: Mapping[str, str], noun: str, table: str) -> str:
    """The canonical name of what `key` names."""
    written = row.text(key)
    found = index.get(folded(written))
    if found is None:
        hint = did_you_mean(written, index) or f"See `tonnage catalog list {table}`."
        raise row.error(f'names a {noun} "{written}" that is not known.', key=key, hint=hint)
    return found


def _source(row: Row) -> str:
    """Where the figures are from, abbreviations spelled out; a user's row may leave it out."""
    written = row.text("source", "" if row.document.packaged else str(row.document.path))
    abbreviations = row.document.tables.get("sources", {})
    return "; ".join(str(abbreviations.get(part, part)) for part in written.split("; "))


def _without_maker(models: Mapping[str, Row]) -> dict[str, str]:
    """What follows the slash of each hub id, folded, where it means one model only."""
    owners: dict[str, set[str]] = {}
    for name, row in models.items():
        for written in (name, *row.names("aliases")):
            owners.setdefault(folded(written.rpartition("/")[2]), set()).add(name)
    return {short: names.pop() for short, names in owners.items() if len(names) == 1}
