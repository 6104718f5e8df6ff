"""From the name of an architecture to its networks."""

from __future__ import annotations

from collections.abc import Sequence

from nucstyle.style.lookup import LookupCritics, LookupNetworks
from nucstyle.style.mdmm import MdmmCritics, MdmmNetworks
from nucstyle.style.networks import Critics, FeatureTrunk, StyleNetworkConfig, TranslationNetworks


def make_networks(config: StyleNetworkConfig, polarity: Sequence[int]) -> TranslationNetworks:
    """Untrained encoders and generator.

    Args:
        config: Architecture and sizes.
        polarity: The sign of each modality, see `TranslationNetworks`.
    """
    return (MdmmNetworks if config.architecture == "mdmm" else LookupNetworks)(config, polarity)


def make_critics(config: StyleNetworkConfig, modalities: int, trunk: FeatureTrunk | None) -> Critics:
    """Untrained critics for the same architecture.

    Args:
        config: Architecture and sizes.
        modalities: K.
        trunk: For a critic of features; needed where `config.feature_critic` asks for one.
    """
    if config.architecture == "mdmm":
        return MdmmCritics(config, modalities)
    return LookupCritics(config, modalities, trunk if config.feature_critic else None)
