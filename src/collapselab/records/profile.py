"""A profile on disk: profile.json and statistics.safetensors in one folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, JsonValue
from torch import Tensor

from collapselab.digests import Damaged, seal
from collapselab.errors import InputError
from collapselab.probes import Profile
from collapselab.records.run_record import Provenance, in_words
from collapselab.records.stored import parsed, unsealed, what_is_wrong
from collapselab.storage import read_bytes, replace_text, save_tensors
from collapselab.text import flat, words

FILE, STATISTICS = "profile.json", "statistics.safetensors"


class ProfileMade(Provenance):
    """How a profile was made.

    Attributes:
        options: of the command, by name.
        processes: that shared the data.
        seconds: of the whole command.
    """

    options: dict[str, JsonValue] = Field(default_factory=dict)
    processes: int = 1
    seconds: float = 0.0

    def how_made(self) -> list[tuple[str, str]]:
        """Return all that decided the numbers, as names and values in words."""
        values = self.model_dump(mode="json")
        facts = {**values.pop("options"), **values.pop("versions"), **values.pop("hardware"), **values}
        return [(words(path), in_words(value)) for path, value in flat(facts)]


@dataclass(frozen=True)
class StoredProfile:
    """What a profile folder holds; `made` is None where the file does not say."""

    profile: Profile
    made: ProfileMade | None = None


def read_profile(path: Path) -> StoredProfile:
    """Read a profile from its folder, or from a profile.json.

    Class means are not read: they are in statistics.safetensors.

    Raises:
        InputError: there is none, or the file holds something else.
    """
    file = path / FILE if path.is_dir() else path
    try:
        values = unsealed(parsed(read_bytes(file)))
        made = values.pop("made", None) if isinstance(values, dict) else None
        return StoredProfile(
            Profile.from_dict(values), None if made is None else ProfileMade.model_validate(made)
        )
    except FileNotFoundError as error:
        raise InputError(f"{file}: no such file; give the folder of an earlier profile") from error
    except Damaged as error:
        raise InputError(f"{file}: {error}; restore it, or profile again") from error
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file}: not a profile ({what_is_wrong(error)}); give the folder of an earlier profile"
        ) from error


def write_profile(folder: Path, stored: StoredProfile) -> None:
    """Write profile.json and statistics.safetensors into a folder that exists.

    profile.json comes last: with it the profile is complete.

    Raises:
        WriteError: the folder cannot be written to.
    """
    made = {} if stored.made is None else {"made": stored.made.model_dump(mode="json")}
    text = json.dumps(seal(stored.profile.to_dict() | made), indent=2, allow_nan=False)
    save_tensors(folder / STATISTICS, statistics_of(stored.profile))
    replace_text(folder / FILE, text + "\n")


def statistics_of(profile: Profile) -> dict[str, Tensor]:
    """Return counts, class means and class scatters of a profile, named `split/layer/quantity`.

    Raises:
        ValueError: the profile was read from profile.json, which has no class means.
    """
    tensors: dict[str, Tensor] = {}
    for layer in profile.layers:
        for split, measured in layer.splits.items():
            if measured.class_means is None or measured.class_variances is None:
                raise ValueError(f"{layer.name}: the profile has no class means; it was read from a file")
            place = f"{split}/{layer.name}"
            tensors[f"{place}/counts"] = measured.counts
            tensors[f"{place}/class_means"] = measured.class_means
            tensors[f"{place}/class_variances"] = measured.class_variances
    return tensors
