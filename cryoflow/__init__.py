"""From finished cryo-EM projects to trained particle pickers and clean picks."""

__version__ = "0.1.0"
