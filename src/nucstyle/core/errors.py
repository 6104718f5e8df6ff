"""The errors of nucstyle.

```text
NucstyleError              everything this package raises on purpose (exit code 1)
├── InputError             the input or the options are at fault (exit code 2)
│   ├── OptionError        an option of a verb, or an argument of a function
│   ├── ConfigError        a recipe, a `--set`, a config.toml
│   ├── DatasetError       a folder, a manifest, a pairing of images and labels
│   ├── ImageError         one image or label file
│   ├── WeightsError       a weights or checkpoint file
│   └── RunFolderError     the folder that a verb writes
│       ├── FolderInUseError   another process works in it
│       └── ConfigMismatchError   it holds a run of another config
├── InstallationError      two installed packages do not fit each other (exit code 2)
├── TrainingError          a training cannot go on (exit code 1)
├── MemoryShortageError    there is not enough memory for an image; verbs list it as one that could not be used
└── Interrupted            a signal asked the run to stop (exit code 130 or 143)
```

Every message is one line that says what is wrong, which file or value, and what to do.
"""


class NucstyleError(Exception):
    """Base class of every error that nucstyle raises on purpose."""

    exit_code = 1
    """What the command line returns for it."""


class InputError(NucstyleError):
    """The input or the options are at fault, not the program."""

    exit_code = 2


class OptionError(InputError):
    """An option or argument has a value that is not allowed."""


class ConfigError(InputError):
    """A recipe or an override names an unknown key or holds a value that is not allowed."""


class DatasetError(InputError):
    """A data set is missing, empty, or its parts do not fit each other."""


class ImageError(InputError):
    """One image or label file cannot be used."""


class WeightsError(InputError):
    """A weights or checkpoint file is missing, damaged, or of another kind."""


class RunFolderError(InputError):
    """The output folder cannot be used as asked."""


class FolderInUseError(RunFolderError):
    """Another process works in the output folder."""


class ConfigMismatchError(RunFolderError):
    """The output folder holds a run of another config."""


class InstallationError(NucstyleError):
    """Two installed packages do not fit each other."""

    exit_code = 2


class TrainingError(NucstyleError):
    """A training cannot go on."""


class MeasureError(NucstyleError):
    """What was measured falls short of what was asked for."""


class MemoryShortageError(NucstyleError):
    """There is not enough memory for an image, also after asking for less."""


class Interrupted(NucstyleError):  # noqa: N818  (not an error of anybody)
    """A signal asked the run to stop; what it had done is saved.

    Args:
        message: One line for the person.
        signal_number: The signal, for example 2 (Ctrl-C) or 15 (SIGTERM).
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
