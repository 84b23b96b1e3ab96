"""Images of scenes over time with their true latents, in the published layouts of Causal3DIdent."""

from __future__ import annotations

from pathlib import Path
from typing import final

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, UInt8
from sklearn.neighbors import NearestNeighbors

from pyro_citevae.data.interventions import do
from pyro_citevae.data.pixels import Pixels
from pyro_citevae.data.schema import Schema
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DataError
from pyro_citevae.scenes import causal3dident as stills
from pyro_citevae.scenes import temporal_causal3dident as temporal
from pyro_citevae.scenes.factor_ranges import HIGH, LOW, extremes, require_ranges
from pyro_citevae.scenes.factors import COARSE, FACTORS, SHAPES, LatentSequences
from pyro_citevae.scenes.published_folders import places, truth_of

__all__ = ["ImageSequences"]


@final
class ImageSequences:
    """Sequences of frames, with what they show.

    Attributes:
        images: The frames, memory-mapped if they lie on disk: nothing is read until it is asked for.
        latents: Truth of each step: the first ten of ``scenes.factors.FACTORS``.
        shapes: Shape and material of each step.
        interventions: Whether the step *into* [sequence, step] intervened on each factor.
        environments: Token of each sequence, 0 for the control.
        frames: Which of the images each step shows.
    """

    def __init__(
        self,
        images: UInt8[np.ndarray, "*frame height width 3"],
        latents: Float[np.ndarray, "sequence step 10"],
        shapes: Int[np.ndarray, "sequence step 2"],
        interventions: Bool[np.ndarray, "sequence step 12"],
        environments: Int[np.ndarray, " sequence"] | None = None,
        frames: Int[np.ndarray, "sequence step"] | None = None,
    ) -> None:
        """Joins images and truth.

        Args:
            images: Frames one after the other, or by sequence and step.
            latents: See above.
            shapes: See above.
            interventions: See above.
            environments: See above; all of them the control if not given.
            frames: See above; each step shows the next image if not given.

        Raises:
            DataError: The arrays' lengths disagree, or a factor is out of its range.

        Example:
            >>> from pyro_citevae.scenes.dynamics import latent_dynamics
            >>> drawn = latent_dynamics(2, 3, seed=0)
            >>> grey = np.full((6, 8, 8, 3), 128, dtype=np.uint8)
            >>> sequences = ImageSequences(grey, drawn.latents, drawn.shapes, drawn.interventions)
            >>> sequences.read(np.array([1])).shape
            (1, 3, 8, 8, 3)
        """
        self.images = images.reshape(-1, *images.shape[-3:])
        self.latents, self.shapes, self.interventions = latents, shapes, interventions
        size = latents.shape[:2]
        if shapes.shape[:2] != size or interventions.shape[:2] != size:
            raise DataError(
                f"latents are of {size} sequences and steps, shapes of {shapes.shape[:2]} and interventions "
                f"of {interventions.shape[:2]}; give arrays of the same."
            )
        if frames is None and len(self.images) != size[0] * size[1]:
            raise DataError(
                f"There are {len(self.images)} images for {size[0]} sequences of {size[1]} steps; give one a "
                "step, or say by frames= which image a step shows."
            )
        self.frames = np.arange(size[0] * size[1]).reshape(size) if frames is None else frames
        self.environments = np.zeros(size[0], dtype=np.int64) if environments is None else environments
        if self.frames.shape != size or len(self.environments) != size[0]:
            raise DataError(
                f"latents are of {size} sequences and steps, frames of {self.frames.shape} and environments "
                f"of {len(self.environments)}; give arrays of the same."
            )
        if self.frames.size and not 0 <= self.frames.min() <= self.frames.max() < len(self.images):
            raise DataError(f"frames name image {self.frames.max()} of {len(self.images)}; count from 0.")
        require_ranges(latents, shapes)

    @property
    def n_sequences(self) -> int:
        """Number of sequences."""
        return self.latents.shape[0]

    @property
    def n_steps(self) -> int:
        """Number of steps of each."""
        return self.latents.shape[1]

    def read(self, rows: Int[np.ndarray, " row"]) -> UInt8[np.ndarray, "row step height width 3"]:
        """The images of some sequences; only theirs are read."""
        return np.asarray(self.images[self.frames[rows]])

    def select(self, rows: Int[np.ndarray, " row"]) -> ImageSequences:
        """Some of the sequences, on the same images."""
        return ImageSequences(
            self.images,
            self.latents[rows],
            self.shapes[rows],
            self.interventions[rows],
            self.environments[rows],
            self.frames[rows],
        )

    def windows(self, n_steps: int, stride: int | None = None) -> ImageSequences:
        """Cuts each sequence into sequences of ``n_steps``, leaving out what remains at its end.

        The first step of a window keeps the interventions that led into it from the step before.

        Args:
            n_steps: Steps of a window.
            stride: Steps from the start of a window to that of the next; ``n_steps`` if not given. Windows
                that overlap share their images.

        Raises:
            DataError: The sequences are shorter than that, or the stride is below 1.

        Example:
            >>> from pyro_citevae.scenes.dynamics import latent_dynamics
            >>> drawn = latent_dynamics(1, 5, seed=0)
            >>> grey = np.full((5, 8, 8, 3), 128, dtype=np.uint8)
            >>> sequence = ImageSequences(grey, drawn.latents, drawn.shapes, drawn.interventions)
            >>> sequence.windows(2, stride=1).frames.tolist()
            [[0, 1], [1, 2], [2, 3], [3, 4]]
        """
        stride = n_steps if stride is None else stride
        if not 1 <= n_steps <= self.n_steps:
            raise DataError(f"windows({n_steps}) is not in 1..{self.n_steps}, the steps of these sequences.")
        if stride < 1:
            raise DataError(f"windows(stride={stride}) does not move on; give 1 or more.")
        steps = np.arange(0, self.n_steps - n_steps + 1, stride)[:, None] + np.arange(n_steps)

        def cut(values: np.ndarray) -> np.ndarray:
            return values[:, steps].reshape(-1, n_steps, *values.shape[2:])

        return ImageSequences(
            self.images,
            cut(self.latents),
            cut(self.shapes),
            cut(self.interventions),
            np.repeat(self.environments, len(steps)),
            cut(self.frames),
        )

    def trajectories(self, tokens: str = "environments", schema: Schema | None = None) -> Trajectories:
        """The sequences as a model of images takes them.

        Step t is time t, and the first image is the state before every perturbation. Environment e is
        ``do("environment_e")`` from time 0 on, and 0 is the control. Or, in pairs of steps, the tokens are
        the coarse factors that the step from one to the other intervened on. No truth is passed on.

        Args:
            tokens: What perturbs: the sequence's ``"environments"``, or the ``"interventions"`` of a pair's
                one step.
            schema: That of other sequences of the same kind, by which scenes of one step can be read too.

        Raises:
            DataError: ``tokens`` is neither; or the sequences have one step alone and there is no schema, are
                of other images or tokens than the schema, or of more than two steps for their interventions.

        Example:
            >>> from pyro_citevae.scenes.dynamics import latent_dynamics
            >>> drawn = latent_dynamics(4, 3, seed=0, interventions="soft")
            >>> grey = np.full((12, 8, 8, 3), 128, dtype=np.uint8)
            >>> made = ImageSequences(grey, *vars(drawn).values()).trajectories()
            >>> made.perturbations(), made.schema.image
            (('environment_1', 'environment_2', 'environment_3'), (8, 8, 3))
        """
        if tokens not in ("environments", "interventions"):
            raise DataError(
                f"trajectories('{tokens}') is neither 'environments' nor 'interventions'; say one."
            )
        if self.n_steps < 2 and schema is None:
            raise DataError("trajectories() of one step show no dynamics; give sequences of two or more.")
        named, given = self._interventions() if tokens == "interventions" else self._environments()
        present, condition = np.unique(given, axis=0, return_inverse=True)
        n = self.n_sequences
        if schema is None:
            schema = self._schema(named)
        elif schema.image != self.images.shape[1:] or not {*named[given.any(0)]} <= {*schema.tokens}:
            raise DataError(
                f"trajectories(schema=...) is of images of {schema.image} and tokens {schema.tokens}, these "
                f"are of {self.images.shape[1:]} and {tuple(named)}; give the schema of the same kind."
            )
        return Trajectories(
            schema=schema,
            values=Pixels(self.images, self.frames.ravel()),
            library=np.ones(n * self.n_steps, dtype=np.float32),
            row_cell=np.repeat(np.arange(n), self.n_steps),
            row_step=np.tile(np.arange(self.n_steps), n),
            conditions=tuple(do(*named[one]) for one in present),
            condition=condition.reshape(-1),
            technical=np.zeros(n, dtype=np.int64),
            names=np.array([f"sequence_{i}" for i in range(n)], dtype=object),
        )

    def _schema(self, tokens: np.ndarray) -> Schema:
        height, width, channels = image = self.images.shape[1:]
        return Schema(
            genes=tuple(f"{y}:{x}:{c}" for y in range(height) for x in range(width) for c in range(channels)),
            tokens=tuple(tokens),
            times=tuple(map(float, range(self.n_steps))),
            design="sequences",
            values="real",
            image=image,
        )

    def _environments(self) -> tuple[np.ndarray, Bool[np.ndarray, "sequence token"]]:
        """Names of the environments, the control left out, and which one each sequence is under."""
        present = np.setdiff1d(self.environments, [0])
        return np.array([f"environment_{e}" for e in present.tolist()], dtype=object), (
            self.environments[:, None] == present
        )

    def _interventions(self) -> tuple[np.ndarray, Bool[np.ndarray, "sequence token"]]:
        """Names of the coarse factors that are ever intervened on, and which ones each pair's step was."""
        if self.n_steps > 2:
            raise DataError(
                f"trajectories('interventions') of {self.n_steps} steps would keep up what a step does once; "
                "cut them into pairs by windows(2, stride=1)."
            )
        groups = [[FACTORS.index(factor) for factor in members] for members in COARSE.values()]
        last = self.interventions[:, -1] & (self.n_steps == 2)
        done = np.stack([last[:, members].any(1) for members in groups], axis=1)
        ever = done.any(0)
        return np.array(list(COARSE), dtype=object)[ever], done[:, ever]

    def ranges(self) -> pd.DataFrame:
        """The lowest and the highest value of each factor.

        Returns:
            A row a factor, with the columns ``low`` and ``high``.
        """
        low, high = extremes(self.latents, self.shapes)
        return pd.DataFrame({"low": low, "high": high}, index=pd.Index(FACTORS, name="factor"))

    def nearest(self, wanted: LatentSequences) -> ImageSequences:
        """Sequences made out of these images: at each step the one nearest to what is wanted.

        It shows the wanted shape. Distances are Euclidean with each factor's range as the unit, and leave out
        ``rot-gamma``, which the dynamics keep constant. The truth is what the images show, not what was
        wanted: compare the two to see how densely the images lie.

        Args:
            wanted: Sequences to follow.

        Returns:
            The sequences that were found, with the wanted interventions and environments.

        Raises:
            DataError: No image shows one of the shapes.

        Source: J. von Kügelgen et al. (2021), who match pairs of images in this way.
        """
        shown, latents = self.frames.ravel(), self.latents.reshape(-1, 10)
        shapes = self.shapes.reshape(-1, 2)
        used = [i for i, name in enumerate(FACTORS[:10]) if name != "rot-gamma"]
        unit = (HIGH - LOW)[used]
        asked, goals = wanted.shapes[..., 0].ravel(), wanted.latents.reshape(-1, 10)[:, used] / unit
        nearest = np.zeros(len(asked), dtype=np.int64)
        for shape in np.unique(asked):
            candidates = (shapes[:, 0] == shape).nonzero()[0]
            if not len(candidates):
                raise DataError(
                    f"No image shows a {SHAPES[shape]}; leave it out of latent_dynamics(shapes=...)."
                )
            search = NearestNeighbors(n_neighbors=1).fit(latents[candidates][:, used] / unit)
            rows = asked == shape
            nearest[rows] = candidates[search.kneighbors(goals[rows], return_distance=False)[:, 0]]
        found = nearest.reshape(wanted.shapes.shape[:2])
        return ImageSequences(
            self.images,
            latents[found],
            shapes[found],
            wanted.interventions,
            wanted.environments,
            shown[found],
        )

    @classmethod
    def open(
        cls, folder: str | Path, cache: str | Path | None = None, *, part: str = "train", pixels: int = 64
    ) -> ImageSequences:
        """Opens a part of Temporal-Causal3DIdent or of Causal3DIdent.

        Temporal-Causal3DIdent: ``{part}.npz`` with ``imgs``, ``raw_latents``, ``shape_latents`` and
        ``interventions``, of which row t is the step t -> t + 1. It is one long sequence (see
        :meth:`windows`), or sequences of ``n_steps`` where :func:`~pyro_citevae.scenes.write` noted them;
        independent scenes (``val_indep``) are sequences of one step.

        Causal3DIdent: ``trainset`` or ``testset`` with ``images_{c}/*.png`` and ``raw_latents_{c}.npy``. Each
        image is a sequence of one step (see :meth:`nearest`).

        Args:
            folder: The folder that was unpacked.
            cache: Where the images are kept such that they can be memory-mapped, as large as the images
                themselves; the folder's own ``npy`` if not given. They are converted when first opened.
            part: ``"train"``, ``"val"``, ``"test"``, ``"val_indep"`` or ``"test_indep"``; of Causal3DIdent,
                ``"train"`` or ``"test"``.
            pixels: Side to which the images of Causal3DIdent are reduced; the others stay as they are.

        Raises:
            DataError: Files are missing or unreadable, lengths disagree, or a factor is out of its range.

        Source: P. Lippe et al., CITRIS (2022), Zenodo 6637749; J. von Kügelgen et al. (2021), Zenodo 4784282.
        """
        place, kept = places(folder, cache)
        if part in temporal.TRIPLETS:
            raise DataError(f"'{part}' holds triplets; open it by ImageTriplets.open.")
        archive, pictures = place / f"{part}.npz", stills.find(place, part)
        if archive.is_file():
            return _series(archive, kept, independent=part.endswith("_indep"))
        if pictures is None:
            looked = [f"'{archive.name}'", *(f"'{name}/images_0'" for name in stills.FOLDERS.get(part, ()))]
            raise DataError(
                f"'{place}' has no part '{part}': looked for {', '.join(looked)}; name the folder of "
                "Temporal-Causal3DIdent or Causal3DIdent that was unpacked, and a part that it has."
            )
        images, latents, shapes = stills.read(pictures, kept, pixels)
        both = np.stack([shapes, np.zeros_like(shapes)], axis=-1)
        return cls(
            images, latents[:, None], both[:, None], np.zeros((len(shapes), 1, len(FACTORS)), dtype=bool)
        )


def _series(archive: Path, cache: Path, *, independent: bool) -> ImageSequences:
    arrays = temporal.read(archive, cache, leading=1)
    n = len(arrays["imgs"])
    n_steps = 1 if independent else int(arrays.get("n_steps", np.array(n)))
    if n_steps < 1 or n % n_steps:
        raise DataError(
            f"'{archive}' has {n} images, which are no sequences of {n_steps} steps; write it anew."
        )
    latents, shapes = truth_of(arrays)
    # in the file, row t is the step t -> t + 1; nothing is known of the step into the first
    into = np.zeros((n, len(FACTORS)), dtype=bool)
    into[1:] = arrays["interventions"][: n - 1]
    return ImageSequences(
        arrays["imgs"][..., :3],
        latents.reshape(-1, n_steps, 10),
        shapes.reshape(-1, n_steps, 2),
        into.reshape(-1, n_steps, len(FACTORS)),
        np.asarray(arrays["environments"]) if "environments" in arrays else None,
    )
