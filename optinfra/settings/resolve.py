"""Put defaults and deprecated keys where they take effect, before anything is validated."""

import warnings
from typing import Any

from optinfra.settings.document import Document, KeyPath
from optinfra.settings.errors import SettingsError, SettingsWarning, shown

DEFAULT_TRAINER = "ppo"
DEFAULT_ENV = "CartPole-v1"
SIGNALS_WITH_ENCODING_SIZE = ("curiosity", "gail", "rnd")
DEPRECATED_CHECKPOINT_KEYS = {
    "load_model": "deprecated, read as `resume`.",
    "train_model": "deprecated and dropped: training is what is done.",
}


def resolved(document: Document) -> Document:
    """Merge `default_settings` under every behaviour and replace deprecated keys.

    Differs: ML-Agents keeps the defaults in a class variable that outlives the call, fills them
    up with every value that was not written, and hands hyperparameters of one trainer type to
    behaviours of another, which then fail.
    """
    resolver = _Resolver(document)
    data = dict(document.data)
    defaults = resolver.defaults(data.pop("default_settings", None))
    behaviors = data.get("behaviors", {})
    if behaviors == {}:  # then the defaults describe one behaviour
        behaviors = {_env(data): {}}
    if isinstance(behaviors, dict):
        data["behaviors"] = {
            name: resolver.behavior(name, own, defaults) if isinstance(own, dict) else own
            for name, own in behaviors.items()
        }
    if isinstance(checkpoints := data.get("checkpoint_settings"), dict):
        data["checkpoint_settings"] = resolver.checkpoints(checkpoints)
    for note in dict.fromkeys(resolver.notes):
        warnings.warn(note, SettingsWarning, stacklevel=3)
    return Document(document.name, data, resolver.origins)


def merged(under: Any, over: Any) -> Any:
    """Lay one mapping over another, at every depth."""
    if not (isinstance(under, dict) and isinstance(over, dict)):
        return over
    return {**under, **{k: merged(under[k], v) if k in under else v for k, v in over.items()}}


def _env(data: dict[str, Any]) -> str:
    """Name the environment, and with it the one behaviour of a file that names none."""
    block = data.get("optinfra")
    env = block.get("env") if isinstance(block, dict) else None
    return env if isinstance(env, str) and env else DEFAULT_ENV


class _Resolver:
    """The document as it is rewritten: where its keys came from, and what there is to say."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.origins = dict(document.origins)
        self.notes: list[str] = []

    def locate(self, *path: str) -> str:
        return self.document._replace(origins=self.origins).locate(path)

    def defaults(self, written: Any) -> dict[str, Any]:
        if written is None:
            return {}
        if not isinstance(written, dict):
            where = self.locate("default_settings")
            raise SettingsError(f"{where}: expected a mapping, got {shown(written)}.")
        if "hyperparameters" in written and "trainer_type" not in written:
            where = self.locate("default_settings", "hyperparameters")
            raise SettingsError(f"{where}: missing trainer_type beside them.")
        return {"trainer_type": DEFAULT_TRAINER, **written}

    def behavior(self, name: str, own: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
        """Lay a behaviour over the defaults that apply to it, and bring it up to date."""
        theirs, ours = defaults.get("trainer_type"), own.get("trainer_type")
        if "hyperparameters" in defaults and ours not in (None, theirs):
            where = self.locate("default_settings", "hyperparameters")
            self.notes.append(f"{where}: they are {theirs}'s and dropped for {name} ({ours}).")
            defaults = {key: value for key, value in defaults.items() if key != "hyperparameters"}
        for path, origin in self.document.origins.items():
            if path[0] == "default_settings" and len(path) > 1:
                self.origins.setdefault(("behaviors", name, *path[1:]), origin)
        block = merged(defaults, own)
        if "framework" in block:
            del block["framework"]
            where = self.locate("behaviors", name, "framework")
            self.notes.append(f"{where}: deprecated and dropped.")
        if isinstance(signals := block.get("reward_signals"), dict):
            path = ("behaviors", name, "reward_signals")
            block["reward_signals"] = {k: self.signal((*path, k), v) for k, v in signals.items()}
        return block

    def signal(self, path: tuple[str, ...], written: Any) -> Any:
        """Read `encoding_size` as the hidden units, unless the network's settings are given."""
        known = path[-1] in SIGNALS_WITH_ENCODING_SIZE and isinstance(written, dict)
        if not known or "encoding_size" not in written:
            return written
        signal = {key: value for key, value in written.items() if key != "encoding_size"}
        size, where = written["encoding_size"], self.locate(*path, "encoding_size")
        if size is None:
            return signal
        if "network_settings" in signal:
            self.notes.append(f"{where}: deprecated and dropped: network_settings are given.")
            return signal
        self.notes.append(f"{where}: deprecated, read as network_settings.hidden_units.")
        new: KeyPath = (*path, "network_settings", "hidden_units")
        if origin := self.origins.get((*path, "encoding_size")):
            self.origins[new] = origin
        return {**signal, "network_settings": {"hidden_units": size}}

    def checkpoints(self, written: dict[str, Any]) -> dict[str, Any]:
        """Replace what is deprecated; where it is false it says nothing."""
        block = {k: v for k, v in written.items() if k not in DEPRECATED_CHECKPOINT_KEYS}
        for key, note in DEPRECATED_CHECKPOINT_KEYS.items():
            value, where = written.get(key, False), self.locate("checkpoint_settings", key)
            if not isinstance(value, bool):
                raise SettingsError(f"{where}: expected true or false, got {shown(value)}.")
            if value:
                self.notes.append(f"{where}: {note}")
        return {**block, "resume": True} if written.get("load_model") else block
