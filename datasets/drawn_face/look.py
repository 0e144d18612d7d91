"""What a drawn face looks like apart from its labels: colours, hair, glasses, the direction of the light."""

import dataclasses

import numpy as np

_SKINS = np.array(
    [(255, 222, 200), (243, 198, 165), (226, 172, 132), (196, 138, 98), (148, 96, 66), (106, 68, 50)], np.float64
)
_HAIRS = np.array(
    [(30, 25, 25), (58, 40, 30), (95, 62, 40), (140, 95, 55), (205, 165, 100), (160, 75, 40), (170, 168, 165)],
    np.float64,
)
_IRISES = np.array([(70, 45, 30), (105, 70, 40), (90, 120, 150), (95, 120, 80), (60, 90, 130)], np.float64)
HAIR_STYLES = ("shaved", "short", "curly", "bun", "bob", "long", "scarf")
COVERS_EARS = ("bob", "long", "scarf")


@dataclasses.dataclass(frozen=True)
class Look:
    """What does not depend on the labels: the person's colours and style, and the light and camera.

    Attributes:
      skin, hair, brows, iris, lips, cloth: colours (3,); the hair's is the scarf's under a scarf.
      hair_style: one of HAIR_STYLES.
      front: "", "fringe" or "parting".
      beard: "", "stubble", "moustache" or "full".
      glasses: "", "round" or "square".
      lashes, brow: thickness of the upper lid line and of the brows, in face units.
      hairline: how much higher than the mean the hair begins, in face units.
      light: unit vector towards the light, (3,).
      ambient: share of the light that has no direction, in [0, 1].
      gaze: where the eyes look, x and y in face units.
    """

    skin: np.ndarray
    hair: np.ndarray
    brows: np.ndarray
    iris: np.ndarray
    lips: np.ndarray
    cloth: np.ndarray
    hair_style: str
    front: str
    beard: str
    glasses: str
    lashes: float
    brow: float
    hairline: float
    light: np.ndarray
    ambient: float
    gaze: np.ndarray


def sample_look(rng: np.random.Generator) -> Look:
    """One person in one light."""
    skin = _between(_SKINS, rng.random()) + rng.normal(0, 4, 3)
    hair = _HAIRS[rng.integers(len(_HAIRS))] + rng.normal(0, 6, 3)
    style = str(rng.choice(HAIR_STYLES, p=(0.08, 0.30, 0.12, 0.10, 0.13, 0.17, 0.10)))
    bearded = style in ("shaved", "short", "curly", "bun")
    light = np.array([rng.uniform(-0.9, 0.9), rng.uniform(-0.8, 0.2), rng.uniform(0.5, 1.0)])
    return Look(
        skin=skin,
        hair=rng.uniform(40, 200, 3) if style == "scarf" else hair,
        brows=np.minimum(hair * 0.7, skin * 0.6),
        iris=_IRISES[rng.integers(len(_IRISES))] + rng.normal(0, 6, 3),
        lips=skin * (0.86, 0.58, 0.58) + (rng.uniform(0, 25), 0, rng.uniform(0, 10)),
        cloth=rng.uniform(30, 220, 3),
        hair_style=style,
        front="" if style in ("shaved", "scarf") else str(rng.choice(("", "fringe", "parting"), p=(0.4, 0.3, 0.3))),
        beard=str(rng.choice(("", "stubble", "moustache", "full"), p=(0.55, 0.2, 0.1, 0.15))) if bearded else "",
        glasses=str(rng.choice(("", "round", "square"), p=(0.8, 0.1, 0.1))),
        lashes=rng.uniform(0.02, 0.045),
        brow=rng.uniform(0.035, 0.065),
        hairline=rng.uniform(-0.03, 0.12),
        light=light / np.linalg.norm(light),
        ambient=rng.uniform(0.55, 0.85),
        gaze=rng.normal(0, (0.025, 0.01)),
    )


def _between(colours: np.ndarray, position: float) -> np.ndarray:
    low, share = divmod(position * (len(colours) - 1), 1)
    return colours[int(low)] * (1 - share) + colours[int(low) + 1] * share
