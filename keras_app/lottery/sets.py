"""PrAC sets in a file, to be used for another network."""

import dataclasses
import json
from typing import Any
from typing import Literal
from typing import Self

import numpy as np
import numpy.typing as npt

from keras_app import files
from keras_app.hints import FilePath
from keras_app.lottery.prac import check_ids

_FORMAT = 1
MODES = ("per_round", "final")


@dataclasses.dataclass(frozen=True)
class PracSets:
    """The examples that each round of a ticket search used.

    Attributes:
        fingerprint: Digest of the data set the ids belong to.
        train_ids: int64 array of the ids of the whole training set.
        ids: List of int64 arrays: round r trained on `ids[r]`; `ids[0]` is
            the whole training set.
        training_ids, pruning_ids: Lists of int64 arrays: which ids round r
            found critical for training and for pruning.
        settings: Plain values that the sets were found with.

    Example:

    >>> everything, hard = np.arange(4), np.array([1, 3])
    >>> sets = PracSets(
    ...     "digest", everything, [everything, hard], [hard], [hard], {}
    ... )
    >>> sets.for_round(5)
    array([1, 3])
    """

    fingerprint: str
    train_ids: np.ndarray
    ids: list[np.ndarray]
    training_ids: list[np.ndarray]
    pruning_ids: list[np.ndarray]
    settings: dict[str, Any]

    def for_round(
        self, number: int, mode: Literal["per_round", "final"] = "per_round"
    ) -> np.ndarray:
        """Returns the ids for round `number` of another search.

        Args:
            number: The round, from 0.
            mode: `"per_round"`: the set of the same round, the last one again
                and again if this search has more. `"final"`: the last set in
                every round but the first, which sees all data.
        """
        if mode not in MODES:
            raise ValueError(
                f"`mode` must be one of {MODES}. Received: mode={mode!r}"
            )
        if number == 0:
            return self.ids[0]
        last = len(self.ids) - 1
        return self.ids[last if mode == "final" else min(number, last)]

    def check(self, fingerprint: str, train_ids: npt.ArrayLike) -> None:
        """Raises unless the sets are of this data and within its ids.

        Args:
            fingerprint: Digest of the data to train on.
            train_ids: Ids that may be trained on.
        """
        if self.fingerprint != fingerprint:
            raise ValueError(
                "The sets must be of the data that are trained on. Received: "
                f"sets of data {self.fingerprint[:12]}..., not "
                f"{fingerprint[:12]}..."
            )
        for ids in self.ids:
            check_ids("ids of the sets", ids, within=train_ids)

    def save(self, path: FilePath) -> None:
        """Writes an `.npz` file, in one step."""
        path = files.path(path)
        arrays = {"train_ids": self.train_ids}
        for name in ("ids", "training_ids", "pruning_ids"):
            for number, ids in enumerate(getattr(self, name)):
                arrays[f"{name}/{number}"] = ids
        about = {
            "format": _FORMAT,
            "fingerprint": self.fingerprint,
            "rounds": len(self.ids),
            "settings": self.settings,
        }
        arrays["about"] = np.frombuffer(json.dumps(about).encode(), "uint8")
        with files.replacing(path) as temporary:
            with open(temporary, "wb") as file:
                np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: FilePath) -> Self:
        """Reads what `save` wrote.

        Raises:
            OSError: There is no such file.
            ValueError: The file holds something else.
        """
        try:
            with (
                files.path(path).open("rb") as file,
                np.load(file) as stored,
            ):
                about = json.loads(stored["about"].tobytes())
                rounds = about["rounds"]

                def arrays(name, count):
                    return [stored[f"{name}/{r}"] for r in range(count)]

                return cls(
                    about["fingerprint"],
                    stored["train_ids"],
                    arrays("ids", rounds),
                    arrays("training_ids", rounds - 1),
                    arrays("pruning_ids", rounds - 1),
                    about["settings"],
                )
        except (KeyError, ValueError, EOFError) as error:
            raise ValueError(
                f"{path} holds no PrAC sets, or is damaged: {error}"
            ) from None
