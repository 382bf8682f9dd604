"""Every error that chextriev raises on purpose.

Each message says what came, what is allowed and what to do. The command line prints the message and exits with
status 2; from Python, catch the branch you can mend::

    ChextrievError
    ├── InputError                what a person gave
    │   ├── UnknownName           UnknownRegion, UnknownFinding, UnknownSystem, UnknownBackbone, UnknownEngine,
    │   │                         UnknownProtocol, UnknownColumn, UnknownCollection
    │   ├── ImageError            UnreadableImage, EmptyImage, UnsuitableImage, UnfitRadiograph
    │   ├── BoxError              MissingRegion, DuplicateRegion, EmptyBox, BoxOutside, InvalidBox
    │   ├── TableError            MissingColumn, MissingFile, InvalidValue, CountMismatch, DuplicateImage, EmptySplit,
    │   │                         MissingRow, NotFrontal, AvoidedImage
    │   ├── TruncatedArchive
    │   ├── UnreadableSceneGraph
    │   └── InvalidSetting
    ├── ArtifactError             what a stage handed over
    │   ├── NotAnArtifact
    │   ├── DamagedArtifact       UnreadableCheckpoint, MismatchedWeights
    │   ├── DigestMismatch        OtherEncoder, OtherBackbone, OtherStudyTable, OtherQueries
    │   ├── SignatureError        UnsignedArtifact, ForgedSignature
    │   ├── EngineDiffers         UnprovenEngine
    │   ├── UnbuildableEngine
    │   ├── BusyIndex
    │   ├── OtherMachine
    │   ├── TrainingDiverged
    │   └── OutputExists
    ├── ServingError              what a server answered, or that it did not
    │   ├── ServerUnavailable     Overloaded
    │   ├── DeadlineExpired
    │   ├── RequestRefused        UnknownModel
    │   ├── UntrustedServer
    │   ├── ServerFailed
    │   └── ServerNotStarted
    ├── MissingDependency
    └── WeightsUnavailable
"""

from collections.abc import Iterable


class ChextrievError(Exception):
    """Base of the tree; never raised itself."""


class InputError(ChextrievError, ValueError):
    """Something a person gave is not usable."""


class UnknownName(InputError):
    """A name outside a closed vocabulary."""

    kind = "name"

    def __init__(self, name: str, allowed: Iterable[str], *, where: str = "") -> None:
        place = f" in {where}" if where else ""
        super().__init__(f"no {self.kind} {name!r}{place}; choose one of {', '.join(allowed)}")
        self.name = name


class UnknownRegion(UnknownName):
    """Not one of the 18 regions."""

    kind = "region"


class UnknownFinding(UnknownName):
    """Not one of the nine findings."""

    kind = "finding"


class UnknownSystem(UnknownName):
    """Not an encoder of the paper."""

    kind = "system"


class UnknownColumn(UnknownName):
    """Not a column of the index."""

    kind = "column"


class UnknownCollection(UnknownName):
    """Not a collection that this Milvus holds."""

    kind = "collection"


class UnknownBackbone(UnknownName):
    """Not a backbone that this package builds."""

    kind = "backbone"


class UnknownEngine(UnknownName):
    """No installed runner answers to this engine name."""

    kind = "engine"


class UnknownProtocol(UnknownName):
    """Not an evaluation protocol."""

    kind = "protocol"


class ImageError(InputError):
    """A file that should be a radiograph."""


class UnreadableImage(ImageError):
    """The file is missing, damaged, too large, or neither DICOM nor JPEG or PNG."""


class EmptyImage(ImageError):
    """The image has no pixels, or all of them are equal."""


class UnsuitableImage(ImageError):
    """A sound file that shows something else: another modality, body part or view, colour, several frames."""


class UnfitRadiograph(ImageError):
    """The quality check found a fault: no frontal chest, inverted, turned, blank, stretched, mirrored or cropped."""


class BoxError(InputError):
    """The 18 region boxes of one radiograph."""


class MissingRegion(BoxError):
    """A region has no box."""


class DuplicateRegion(BoxError):
    """A region has two boxes."""


class EmptyBox(BoxError):
    """A box has no area: x2 <= x1 or y2 <= y1."""


class BoxOutside(BoxError):
    """A box does not touch the image."""


class InvalidBox(BoxError):
    """A box is not four finite numbers."""


class TableError(InputError):
    """A table of images, regions or splits."""


class MissingColumn(TableError):
    """A table lacks a column."""


class MissingFile(TableError):
    """A folder lacks a file that its layout needs."""


class InvalidValue(TableError):
    """A cell holds a value outside its range."""


class CountMismatch(TableError):
    """Two things that belong together differ in number."""


class DuplicateImage(TableError):
    """An image id stands twice."""


class EmptySplit(TableError):
    """A split holds no radiograph."""


class MissingRow(TableError):
    """A table has no row for an image that another one names."""


class NotFrontal(TableError):
    """A radiograph whose view is not AP or PA."""


class AvoidedImage(TableError):
    """An image that the data set's authors ask to leave out."""


class TruncatedArchive(InputError):
    """A zip file that ends early or is not a zip file."""


class UnreadableSceneGraph(InputError):
    """A scene graph that is not a JSON document of Chest ImaGenome's layout."""


class InvalidSetting(InputError):
    """A setting outside its range."""


class ArtifactError(ChextrievError):
    """A directory that one stage hands to the next."""


class NotAnArtifact(ArtifactError):
    """The directory has no manifest of the expected kind: it is incomplete, or something else."""


class DamagedArtifact(ArtifactError):
    """A file of the directory differs from its manifest, or is none that an artefact may hold."""


class UnreadableCheckpoint(DamagedArtifact):
    """A checkpoint that is truncated, or holds more than tensors and plain values."""


class MismatchedWeights(DamagedArtifact):
    """A checkpoint whose names or shapes are not those of the network."""


class DigestMismatch(ArtifactError):
    """Two artefacts that do not belong together."""


class OtherEncoder(DigestMismatch):
    """Vectors of one encoder offered to an index of another."""


class OtherBackbone(DigestMismatch):
    """Features of one backbone or preprocessing offered to another."""


class OtherStudyTable(DigestMismatch):
    """Features of one study table offered to another."""


class OtherQueries(DigestMismatch):
    """Evaluations of different queries, set against each other."""


class SignatureError(ArtifactError):
    """The signature of a manifest."""


class UnsignedArtifact(SignatureError):
    """A signature is required and there is none."""


class ForgedSignature(SignatureError):
    """The signature is not that of this manifest by this key."""


class EngineDiffers(ArtifactError):
    """An exported engine does not compute what PyTorch computes."""


class UnbuildableEngine(ArtifactError):
    """An ONNX model that TensorRT cannot read or build."""


class BusyIndex(ArtifactError):
    """Another process writes to this index; one does at a time."""


class OtherMachine(ArtifactError):
    """A TensorRT plan that was built by another TensorRT or for another GPU."""


class UnprovenEngine(EngineDiffers):
    """An engine that has not passed the retrieval gate on this kind of machine."""


class TrainingDiverged(ArtifactError):
    """No validation of a training gave a finite number."""


class OutputExists(ArtifactError):
    """The output path holds something that this stage did not make."""


class ServingError(ChextrievError):
    """A request that a server did not answer as asked.

    request: the id of the request, as the server's log has it; None where no request was sent.
    """

    def __init__(self, message: str, *, request: str | None = None) -> None:
        super().__init__(message)
        self.request = request


class ServerUnavailable(ServingError):
    """Nothing answers at the address, or the connection broke; a retry may help."""


class Overloaded(ServerUnavailable):
    """The server's queue is full: it answers, but has no time for this request now."""


class DeadlineExpired(ServingError):
    """No answer before the deadline."""


class RequestRefused(ServingError):
    """The server refuses the input, in its words."""


class UnknownModel(RequestRefused):
    """The server has no model of this name and version."""


class UntrustedServer(ServingError):
    """The two ends do not trust each other's certificate, or one speaks TLS and the other does not."""


class ServerFailed(ServingError):
    """The server broke while it answered."""


class ServerNotStarted(ServingError):
    """A local server did not become ready."""


class MissingDependency(ChextrievError, ImportError):
    """An optional dependency is not installed."""


class WeightsUnavailable(ChextrievError):
    """Pretrained weights are neither in a file nor downloadable."""
